"""Finds the network namespace of a pod by its address, without asking any agent: measurements and tests enter it.

Reads /proc alone. Read next: `minik8s/lab/enter.py`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from minik8s.lab.state import State, all_pids
from nodecore.errors import NotFound


def netns_of(state: State, node: str, address: str) -> str:
    """The path of the namespace in which a pod of this node has that address."""
    holder = state.node(node).pid
    inside = os.readlink(f"/proc/{holder}/ns/pid")
    seen = {os.readlink(f"/proc/{holder}/ns/net")}
    for pid in all_pids():
        try:
            path = f"/proc/{pid}/ns/net"
            space = os.readlink(path)
            if space in seen or not _below(pid, inside):
                continue
        except OSError:
            continue
        seen.add(space)
        argv = ["nsenter", f"--net={path}", "ip", "-o", "addr"]
        if f" {address}/" in subprocess.run(argv, capture_output=True, text=True, check=False).stdout:
            return path
    raise NotFound(f"no pod on {node} has the address {address}")


def _below(pid: int, namespace: str) -> bool:
    """Whether a process lives in a pid namespace, or in one below it (a container's)."""
    while pid > 1:
        if os.readlink(f"/proc/{pid}/ns/pid") == namespace:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
