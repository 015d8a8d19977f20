"""Every agent is killed with -9 while packets fly: none may be lost, and the agent must come back to the same state."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import pytest

from tests.cluster.conftest import Pods
from tests.cluster.traffic import Ping, Transfer
from tests.labs import Lab, until

pytestmark = pytest.mark.cluster

AGENTS = [
    ("node-2", "flanneld"), ("node-1", "flanneld"), ("node-1", "proxy"), ("node-2", "kubelet"), ("node-2", "containerd"),
    ("node-1", "apiserver"), ("node-1", "controllers"), ("node-1", "scheduler"), ("node-1", "etcd"),
]


def data_path(lab: Lab, node: str) -> dict[str, object]:
    """What the kernel of a node holds of ours."""
    device = json.loads(lab.exec(node, "ip", "-j", "-d", "link", "show", "flannel.1"))[0]
    return {
        "flannel.1": f"{device['address']} {device['mtu']} {device['linkinfo']['info_data']['id']} {device['ifindex']}",
        "routes": "\n".join(sorted(lab.exec(node, "ip", "route", "show", "dev", "flannel.1").splitlines())),
        "fdb": "\n".join(sorted(lab.exec(node, "bridge", "fdb", "show", "dev", "flannel.1").splitlines())),
        "subnet.env": lab.exec(node, "cat", "/run/flannel/subnet.env"),
        "flannel rules": lab.exec(node, "iptables-save", "-t", "nat", check=False).count("FLANNEL"),
        "rules": sorted(re.split(r"\s*[\n,]\s*", lab.exec(node, "nft", "-s", "list", "ruleset"))),
    }


def cluster_state(lab: Lab) -> dict[str, object]:
    """What the API says, but for what changes all the time."""
    nodes = lab.get("nodes")["items"]
    pods = lab.get("pods", "-n", "traffic")["items"]
    return {
        "nodes": {item["metadata"]["name"]: _ready(item) for item in nodes},
        "pods": {
            item["metadata"]["uid"]: (item["spec"]["nodeName"], item["status"]["podIP"], item["status"]["phase"], _restarts(item))
            for item in pods
        },
        "endpoints": sorted(
            address for item in lab.get("endpointslices", "-n", "traffic")["items"]
            for endpoint in item["endpoints"] if endpoint["conditions"]["ready"] for address in endpoint["addresses"]),
    }


def _ready(node: dict[str, dict[str, list[dict[str, str]]]]) -> str:
    return next(condition["status"] for condition in node["status"]["conditions"] if condition["type"] == "Ready")


def _restarts(pod: dict[str, dict[str, list[dict[str, int]]]]) -> int:
    return sum(status["restartCount"] for status in pod["status"].get("containerStatuses", []))


def unchanged(read: Callable[[], dict[str, object]], before: dict[str, object]) -> bool:
    now = read()
    changed = {key: (before[key], now[key]) for key in before if before[key] != now[key]}
    assert not changed, changed
    return True


@pytest.fixture(scope="module", autouse=True)
def settled(lab: Lab, pods: Pods) -> None:
    """What the tests before have made has arrived everywhere: nothing changes by itself any more."""
    def read() -> list[dict[str, object]]:
        return [cluster_state(lab), *(data_path(lab, node) for node in pods.addresses)]

    def still() -> bool:
        before = read()
        time.sleep(1)
        return read() == before

    until(still, seconds=90, what="a cluster at rest")


@pytest.mark.parametrize(("node", "agent"), AGENTS, ids=[f"{agent}-on-{node}" for node, agent in AGENTS])
def test_killed_with_9_nothing_is_lost(lab: Lab, pods: Pods, node: str, agent: str) -> None:
    def read() -> dict[str, object]:
        return data_path(lab, node) | cluster_state(lab)

    before = read()
    with (
        Ping(pods.netns("node-1"), pods.addresses["node-2"]) as there,
        Ping(pods.netns("node-2"), pods.addresses["node-3"]) as onward,
        Transfer(pods.netns("node-3"), pods.service, 9000) as transfer,
    ):
        until(lambda: transfer.blocks > 20, what="a transfer under way")
        lab.kill_agent(node, agent)
        until(lambda: unchanged(read, before), what="the same state as before")
        blocks = transfer.blocks
        until(lambda: transfer.error or transfer.blocks > blocks + 20, what="a transfer that goes on")
    assert transfer.error is None
    assert there.sent > 50
    assert (there.lost, onward.lost) == (0, 0)


@pytest.mark.parametrize("agent", ["flanneld", "proxy", "kubelet", "controllers", "scheduler", "apiserver"])
def test_after_the_kill_it_still_works(lab: Lab, pods: Pods, agent: str) -> None:
    """The whole chain once more: a new pod is scheduled, started, networked and served."""
    lab.kill_agent("node-1", agent)
    name = f"after-{agent}"
    options = ["-n", "traffic", "--image=lab.local/busybox:1", "--image-pull-policy=IfNotPresent", "--labels=app=echo"]
    here = json.dumps({"spec": {"nodeName": "node-1"}})
    lab.kubectl("run", name, *options, "--overrides", here, "--", "nc", "-ll", "-p", "9000", "-e", "cat")
    try:
        lab.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", "traffic", "--timeout=240s")
        address = lab.get("pod", name, "-n", "traffic")["status"]["podIP"]
        until(lambda: address in lab.exec("node-3", "nft", "list", "ruleset"), what=f"{address} served by the proxy of node-3")
        with Transfer(pods.netns("node-2"), address, 9000) as transfer:
            until(lambda: transfer.error or transfer.blocks > 5, what="an echo")
        assert transfer.error is None
    finally:
        lab.kubectl("delete", "pod", name, "-n", "traffic", "--grace-period=0", "--force", check=False)
        until(lambda: len(lab.get("endpointslices", "-n", "traffic")["items"][0]["endpoints"]) == 3, what="three endpoints")
