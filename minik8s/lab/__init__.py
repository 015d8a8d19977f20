"""A whole cluster on one machine: every node a set of namespaces held by one small init process.

    up.py        the steps from nothing to a ready cluster        down.py   and back to nothing
    topology.py  names and addresses                              agents.py what runs on which node, with which flags
    node.py      makes a node's namespaces and mounts             init.py   its pid 1: starts, restarts and logs the agents

The lab starts the other parts as processes and imports none of them. Read next: `minik8s/lab/up.py`.
"""
