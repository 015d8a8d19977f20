"""`kill -9` of anything at any moment, `up` itself included: the next `up` makes it whole, and the data is there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from contextlib import suppress

import pytest

from minik8s.lab.state import all_pids
from tests.labs import Lab, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

NODES = ("node-1", "node-2")


def processes(lab: Lab) -> list[int]:
    """Everything that runs in the lab, on whichever node: by the pid namespaces of its holders, and the holders."""
    holders = lab.state.holders()
    spaces = {_space(pid, kind) for pid in holders for kind in ("pid", "pid_for_children")} - {_space(os.getpid(), "pid"), ""}
    return sorted({*holders, *(pid for pid in all_pids() if _space(pid, "pid") in spaces)})


def _space(pid: int, kind: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return ""


def kill_some(lab: Lab, chance: random.Random) -> int:
    found = processes(lab)
    victims = chance.sample(found, k=min(len(found), chance.choice((1, 2, 5, 100))))
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(victims)


@pytest.mark.parametrize("seed", range(4))
def test_up_recovers_from_kills_at_random_moments(fresh_lab: Lab, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        starting = fresh_lab.start("up", "--nodes", str(len(NODES)))
        with suppress(subprocess.TimeoutExpired):
            starting.wait(chance.uniform(0.1, 6))
        if chance.random() < 0.7:
            starting.kill()
        kill_some(fresh_lab, chance)
        starting.communicate(timeout=400)
    fresh_lab.up("--nodes", str(len(NODES)))
    assert fresh_lab.run("status").returncode == 0
    fresh_lab.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    fresh_lab.kubectl("create", "deployment", "pods", "--image=lab.local/busybox:1", "--replicas=2", "--", "sleep", "1000")
    fresh_lab.kubectl("rollout", "status", "deployment/pods", "--timeout=240s")

    for pid in processes(fresh_lab):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not processes(fresh_lab), what="no process left")
    fresh_lab.up()
    assert fresh_lab.get("configmap", "kept")["data"] == {"a": "b"}
    until(lambda: all_run(fresh_lab), seconds=120, what="both pods running again")


def all_run(lab: Lab) -> bool:
    """Two pods, ready as the kubelet of this life says, each on a node that is there."""
    items = lab.get("pods", "-l", "app=pods")["items"]
    ready = [item for item in items if any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in item["status"].get("conditions", []))]
    running = [item for item in ready for status in item["status"]["containerStatuses"] if status["restartCount"] > 0]
    return len(running) == 2
