"""The ground floor every agent stands on: values, errors, the reconcile loop, kernel adapters, etcd and Kubernetes clients.

It knows no agent. Read next: `nodecore/loop/reconcile.py`, the one loop all of them run.
"""
