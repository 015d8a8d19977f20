"""The cgroups above a pod's containers: the runtime makes them in every hierarchy, we take them away.

Works on v1, v2 and hybrid: the hierarchies are read from the mount table. Read next: `minik8s/kubelet/worker.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from . import names


def hierarchies(table: str = "/proc/self/mountinfo") -> list[Path]:
    """Where each cgroup hierarchy is mounted."""
    found = []
    for line in Path(table).read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ")[0] in ("cgroup", "cgroup2"):
            found.append(Path(before.split(" ")[4]))
    return found


def _directories(cgroup: str) -> Iterator[Path]:
    for hierarchy in hierarchies():
        path = hierarchy / cgroup.strip("/")
        if path.is_dir():
            yield path


def remove_pod_cgroup(root: str, uid: str) -> bool:
    """Remove a pod's empty cgroups; says whether all are gone (the kernel may still count dying processes)."""
    for path in _directories(names.pod_cgroup(root, uid)):
        for child in sorted((item for item in path.rglob("*") if item.is_dir()), key=lambda item: -len(item.parts)):
            with suppress(OSError):
                child.rmdir()
        with suppress(OSError):
            path.rmdir()
    return not any(True for _ in _directories(names.pod_cgroup(root, uid)))
