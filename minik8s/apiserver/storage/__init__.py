"""Objects in etcd, and the watch caches in front of it. Read next: `objects.py`."""
