"""The lab's control groups: `/flanneld-py-NAME` in every hierarchy the host has (v1, v2 or both).

Below it, `system` holds the nodes' own processes and `node-N` the pods of a node, which its kubelet makes.
Read next: `minik8s/lab/down.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from nodecore.errors import Busy

PATIENCE = 10.0


def root(name: str) -> str:
    """The path of a lab's group inside each hierarchy."""
    return f"/flanneld-py-{name}"


def hierarchies(mountinfo: str) -> list[tuple[Path, bool]]:
    """Where control groups are mounted, and whether processes are kept in order there (v2, or systemd's own v1): pure."""
    found = []
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        kind, _, options = (*tail.split(), "", "")[:3]
        if kind in ("cgroup", "cgroup2"):
            found.append((Path(head.split()[4]), kind == "cgroup2" or "name=systemd" in options.split(",")))
    return found


def make(name: str) -> list[str]:
    """Make the groups for the nodes' own processes and say where they are."""
    made = []
    for mount, orders in hierarchies(Path("/proc/self/mountinfo").read_text()):
        if orders:
            path = mount / root(name).lstrip("/") / "system"
            path.mkdir(parents=True, exist_ok=True)
            made.append(str(path))
    return made


def remove(name: str) -> None:
    """Remove every group of the lab; its processes have ended."""
    deadline = time.monotonic() + PATIENCE
    for mount, _ in hierarchies(Path("/proc/self/mountinfo").read_text()):
        for path in _deepest_first(mount / root(name).lstrip("/")):
            while True:
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    break
                except OSError as error:  # the last process is still on its way out
                    if time.monotonic() > deadline:
                        raise Busy(f"cannot remove control group {path}: {error.strerror}") from None
                    time.sleep(0.01)
                else:
                    break


def _deepest_first(top: Path) -> Iterator[str]:
    for path, _, _ in os.walk(top, topdown=False):
        yield path
