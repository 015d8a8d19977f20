"""The API server: Kubernetes objects over HTTP, kept in etcd. Read next: `__main__.py`."""
