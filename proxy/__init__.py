"""The service proxy: turns Services and EndpointSlices into this node's packet rules. A drop-in for kube-proxy.

    __main__  ->  agent  ->  snapshot  ->  services, endpoints, policy  ->  render/nftables  ->  ledger

Read next: `proxy/agent.py`.
"""
