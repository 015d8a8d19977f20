"""A Deployment is rolled, undone and scaled while requests come in: none of them fails."""

from __future__ import annotations

import pytest

from tests.cluster.traffic import Requests
from tests.labs import ROOT, Lab, until

pytestmark = pytest.mark.cluster


def served(requests: Requests, text: str) -> bool:
    """Whether the last twenty answers all contain a text."""
    last = requests.answers[-20:]
    return len(last) == 20 and all(text in answer for answer in last)


def test_no_request_fails_while_a_deployment_changes(lab: Lab) -> None:
    lab.kubectl("apply", "-f", str(ROOT / "examples/web.yaml"))
    for what in ("deployment/web", "daemonset/client"):
        lab.kubectl("rollout", "status", what, "-n", "demo", "--timeout=240s")
    clients = lab.get("pods", "-n", "demo", "-l", "app=client")["items"]
    client = next(item for item in clients if item["spec"]["nodeName"] == "node-2")
    address = lab.get("service", "web", "-n", "demo")["spec"]["clusterIP"]
    with Requests(lab.netns_of("node-2", client["status"]["podIP"]), address) as requests:
        until(lambda: requests.errors or served(requests, "version=1"), what="version 1 served")
        lab.kubectl("set", "image", "deployment/web", "web=lab.local/web:2", "-n", "demo")
        lab.kubectl("rollout", "status", "deployment/web", "-n", "demo", "--timeout=240s")
        until(lambda: requests.errors or served(requests, "version=2"), what="version 2 served")
        lab.kubectl("rollout", "undo", "deployment/web", "-n", "demo")
        lab.kubectl("rollout", "status", "deployment/web", "-n", "demo", "--timeout=240s")
        until(lambda: requests.errors or served(requests, "version=1"), what="version 1 served again")
        for replicas in ("6", "2", "3"):
            lab.kubectl("scale", "deployment/web", f"--replicas={replicas}", "-n", "demo")
            lab.kubectl("rollout", "status", "deployment/web", "-n", "demo", "--timeout=240s")
        count = len(requests.answers)
        until(lambda: requests.errors or len(requests.answers) > count + 50, what="requests after the last change")
    assert requests.errors == []
