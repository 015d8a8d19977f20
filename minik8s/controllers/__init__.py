"""The controllers: what users ask for in Deployments, Services and Nodes becomes pods, endpoints and taints."""
