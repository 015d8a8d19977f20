"""Runs of pytest: on every core at once, but for what brings up whole clusters, which measures time; at last virtual machines.

What is slow mostly waits, so three such tests share two cores. Virtual machines run in namespaces of their own, which end with
them: Vagrant, libvirt and QEMU leave no process behind, however long they hang. Must not know: what is tested. Read next:
`tests/conftest.py`, `tests/vm/test_vagrant.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import click

from minik8s.lab.host import PROJECT

CORES = len(os.sched_getaffinity(0))
FAST = ("-m", "not cluster and not slow", "--dist", "loadfile", "-n", f"{CORES}")
SLOW = ("-m", "slow and not cluster", "--dist", "loadfile", "-n", f"{3 * CORES // 2}")
CLUSTER = ("-m", "cluster", "tests/cluster")
MACHINES = ("-m", "vm", "-v", "tests/vm/test_vagrant.py::test_one_vagrant_up_is_a_cluster")
MACHINES_SECONDS, TOO_LONG = 600, 124
ALONE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc")


def run(arguments: Sequence[str], *, fast: bool) -> int:
    """Exit code of the first part that failed; a part after one that failed runs all the same."""
    if fast:
        parts = [(*FAST, *arguments)]
    elif arguments:
        parts = [tuple(arguments)]
    else:
        parts = [FAST, SLOW, CLUSTER]
    # What a part has compiled of the tests, the next one reads: seconds for each of its processes.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    codes = [subprocess.call(pytest(part), cwd=PROJECT) for part in parts]
    if not fast and not arguments and os.environ.get("LAB_TEST_MACHINES") != "0":
        codes.append(bounded([*ALONE, *pytest(MACHINES)], MACHINES_SECONDS))
    return next((code for code in codes if code), 0)


def pytest(part: Sequence[str]) -> list[str]:
    """The command of a part."""
    return [sys.executable, "-m", "pytest", *part]


def bounded(argv: Sequence[str], seconds: float) -> int:
    """Exit code of a command that is ended, with all that belongs to it, when its time is over; 124, as of `timeout`, then."""
    try:
        return subprocess.call(argv, cwd=PROJECT, timeout=seconds)
    except subprocess.TimeoutExpired:
        click.echo(f"lab: the virtual machines had {seconds:g} s, and were ended with all that belongs to them", err=True)
        return TOO_LONG
