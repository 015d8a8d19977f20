"""The node agent: runs the pods bound to this node in a container runtime, and tells the API how they are.

Read next: `agent.py` (the wiring), then `plan.py` (what is decided), `worker.py` (who does it).
"""
