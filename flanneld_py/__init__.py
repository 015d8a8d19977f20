"""The overlay daemon: gives this node a subnet for its pods and the kernel the way to everybody else's.

A drop-in for Go flanneld. Reading order: `__main__.py` -> `agent.py` -> `plan.py` -> `backends/vxlan.py` ->
`nodecore/loop/reconcile.py`.
"""
