"""Talking to etcd v3: keys, transactions, leases and a watch that resumes."""
