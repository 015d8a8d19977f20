"""The largest lab there is."""

from __future__ import annotations

import pytest

from minik8s.lab.config import MAX_NODES
from tests.labs import Lab, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_twenty_nodes_come_up_and_know_one_another(fresh_lab: Lab) -> None:
    fresh_lab.up("--nodes", str(MAX_NODES))
    assert len(fresh_lab.get("nodes")["items"]) == MAX_NODES
    last = f"node-{MAX_NODES}"
    until(lambda: fresh_lab.exec(last, "ip", "route").count("dev flannel.1") == MAX_NODES - 1, what=f"all routes on {last}")
    fresh_lab.kubectl("create", "deployment", "many", "--image=lab.local/busybox:1", "--replicas=60", "--", "sleep", "1000")
    fresh_lab.kubectl("rollout", "status", "deployment/many", "--timeout=400s")
    pods = fresh_lab.get("pods", "-l", "app=many")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {f"node-{index}" for index in range(1, MAX_NODES + 1)}
    assert len({pod["status"]["podIP"] for pod in pods}) == 60
    assert fresh_lab.run("status").returncode == 0
