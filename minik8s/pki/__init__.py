"""Certificates of a cluster: its authority, what it signs, and kubeconfigs that carry it. Read next: `authority.py`."""
