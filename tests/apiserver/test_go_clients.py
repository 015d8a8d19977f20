"""The original's parts as clients of ours: Go kube-scheduler 1.20, by protobuf, with its informers and its leader lease."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.original import original
from tests.plane import Plane, until

SCHEDULER = original("kube-scheduler")
pytestmark = [pytest.mark.etcd, pytest.mark.slow]


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane.start(tmp_path) as made:
        yield made


def node(name: str, **more: object) -> dict[str, object]:
    room = {"cpu": "2", "memory": "4Gi", "pods": "110"}
    labels = {"kubernetes.io/hostname": name}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": more,
            "status": {"allocatable": room, "capacity": room, "conditions": [{"type": "Ready", "status": "True"}]}}


@pytest.mark.skipif(not SCHEDULER.exists(), reason="Go kube-scheduler is not built: python -m tests.original kube-scheduler")
def test_go_kube_scheduler_binds_pods(plane: Plane) -> None:
    """Of preemption it would want disruption budgets in a version that is no more."""
    plane.kubectl("create", "-f", "-", body=node("node-1"))
    plane.kubectl("create", "-f", "-", body=node("node-2", taints=[{"key": "full", "effect": "NoSchedule"}]))
    config = plane.directory / "config"
    config.write_text(json.dumps({
        "apiVersion": "kubescheduler.config.k8s.io/v1beta1", "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(plane.directory / "scheduler.kubeconfig")},
        "profiles": [{"schedulerName": "default-scheduler", "plugins": {"postFilter": {"disabled": [{"name": "*"}]}}}]}))
    log = plane.directory / "go.log"
    argv = [str(SCHEDULER), "--config", str(config), "--secure-port", "0", "--port", "0"]
    plane.kubectl("create", "deployment", "web", "--image", "x", "--replicas", "3")
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        plane.agent("controllers")
        bound = "jsonpath={.items[*].spec.nodeName}"
        until(lambda: plane.kubectl("get", "pods", "-o", bound) == " ".join(["node-1"] * 3), f"bound: {log}", 60)
        assert plane.kubectl("get", "events", "--field-selector", "reason=Scheduled", "-o", "name").count("event/") == 3
        assert plane.kubectl("-n", "kube-system", "get", "lease", "kube-scheduler", "-o", "jsonpath={.spec.holderIdentity}")
    finally:
        process.terminate()
        process.wait(20)
        print(log.read_text()[-3000:])
