"""`lab down`: ends a lab and leaves nothing.

A node is one process tree in its own namespaces: with its pid 1 go all processes, mounts and links. What the kernel
does not take by itself are the control groups and the lab's directory. Read next: `minik8s/lab/cgroup.py`.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from minik8s.lab import cgroup
from minik8s.lab.state import DEFAULT, State, kill_and_wait
from minik8s.lab.steps import Steps


def down(state: State) -> Steps:
    """Take a lab away, however much of it there is."""
    steps = Steps()
    with state.locked(create=False):
        with steps.step("processes, and their namespaces, mounts and links with them"):
            while found := state.holders():
                kill_and_wait(found)
        with steps.step("control groups"):
            cgroup.remove(state.name)
        with steps.step("files"):
            remove_files_of(state.path)
    steps.done(f"the lab {state.name!r} is gone")
    return steps


def remove_files_of(path: Path) -> None:
    """Remove this directory, and the ones above it that it leaves empty, where they are ours."""
    if path.exists():
        shutil.rmtree(path)
    for parent in path.parents:
        if Path(DEFAULT).parent not in (parent, *parent.parents):
            return
        with contextlib.suppress(OSError):
            parent.rmdir()
