"""A mini Kubernetes for one machine: apiserver, scheduler, controllers, kubelet, and the lab that runs them."""
