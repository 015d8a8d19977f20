"""Talking to a Kubernetes API: kubeconfig, HTTP client, informer, typed views of the objects."""
