"""Ways into a cluster: tokens to join with, joining, kubeconfigs for people. Read next: `join.py`."""
