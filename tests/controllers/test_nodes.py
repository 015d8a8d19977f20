"""What becomes of nodes and of the daemons on them: networks, silence, taints, evictions."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minik8s.controllers.agent import cluster_networks
from minik8s.controllers.daemonset import HASH, plan_daemons
from minik8s.controllers.nodecidr import plan_cidrs
from minik8s.controllers.nodehealth import Lease, NodeHealth, plan_node
from minik8s.controllers.ops import Create, Delete, Patch, Plan, Told
from minik8s.controllers.world import Collection
from nodecore.duration import parse_duration
from nodecore.errors import UserError
from nodecore.kube.resource import LEASES, NODES, PODS
from nodecore.kube.workload import DaemonSet, Node, Pod, stamp
from nodecore.net import parse_network

NOW = 1_000_000.0
SILENT = "node.kubernetes.io/unreachable"


def node(name: str = "n1", *, ready: str = "True", taints: list[dict[str, str]] | None = None, cidr: str = "",
         **spec: Any) -> Node:
    return msgspec.convert({
        "metadata": {"name": name, "uid": name, "resourceVersion": "1"},
        "spec": {"taints": taints or [], **({"podCIDR": cidr, "podCIDRs": [cidr]} if cidr else {}), **spec},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}}, Node)


def pod(name: str, *, node: str = "n1", ready: bool = True, tolerations: list[dict[str, Any]] | None = None, **meta: Any) -> Pod:
    return msgspec.convert({
        "metadata": {"name": name, "namespace": "d", "uid": name, **meta},
        "spec": {"nodeName": node, "tolerations": tolerations or []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}}, Pod)


def words(plan: Plan) -> list[str]:
    return [op.describe() for op in plan.ops if not isinstance(op, Told)]


def taint(key: str, since: float, effect: str = "NoExecute") -> dict[str, str]:
    return {"key": key, "effect": effect, "timeAdded": stamp(since)}


def test_a_silent_node_is_unknown_tainted_and_its_pods_not_ready() -> None:
    plan = plan_node(node(), [pod("p")], NOW - 41, NOW, grace=40, evict=True)
    assert words(plan) == ["patch Node n1/status: silent", "patch Node n1: 2 taints", "patch Pod d/p/status: its node is silent"]
    quiet = plan_node(node(), [pod("p")], NOW - 39, NOW, grace=40, evict=True)
    assert not quiet.ops
    assert quiet.again == pytest.approx(1.05)


def test_a_clock_that_is_set_silences_nobody() -> None:
    nodes = Collection(NODES, Node)
    health = NodeHealth(nodes, Collection(LEASES, Lease), Collection(PODS, Pod), grace=40)
    health.listen(lambda key: None)
    nodes.saw("n1", node(), 1)
    for now in (time.time() + 600, time.time() - 600):
        plan = health.plan("n1", now)
        assert not plan.ops
        assert plan.again == pytest.approx(40, abs=5)


def test_a_node_that_speaks_again_loses_our_taints_and_keeps_others() -> None:
    mine = [taint(SILENT, NOW), taint(SILENT, NOW, "NoSchedule"), {"key": "own", "effect": "NoSchedule"}]
    plan = plan_node(node(taints=mine), [], NOW, NOW, grace=40, evict=True)
    assert isinstance(plan.ops[0], Patch)
    assert plan.ops[0].body == {"spec": {"taints": [{"key": "own", "effect": "NoSchedule"}]}}


def test_pods_leave_when_their_patience_is_over() -> None:
    gone = node(ready="Unknown", taints=[taint(SILENT, NOW - 100, "NoSchedule"), taint(SILENT, NOW - 100)])
    pods = [pod("patient"), pod("hasty", tolerations=[{"key": SILENT, "operator": "Exists", "tolerationSeconds": 60}]),
            pod("daemon", tolerations=[{"operator": "Exists"}])]
    plan = plan_node(gone, pods, NOW - 100, NOW, grace=40, evict=True)
    assert [word for word in words(plan) if "delete" in word] == ["delete Pod d/hasty: evicted by a taint of its node"]
    later = plan_node(gone, pods[:1], NOW - 400, NOW + 201, grace=40, evict=True)
    assert "delete Pod d/patient: evicted by a taint of its node" in words(later)
    cut_off = plan_node(gone, pods, NOW - 400, NOW + 201, grace=40, evict=False)
    assert not any("delete" in word for word in words(cut_off))


def test_a_cordon_is_a_taint() -> None:
    plan = plan_node(node(unschedulable=True), [], NOW, NOW, grace=40, evict=True)
    assert words(plan) == ["patch Node n1: 1 taints"]


@settings(max_examples=50, deadline=None)
@given(taken=st.lists(st.sampled_from(["10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/23", "10.1.4.0/25", ""]), unique=True),
       fresh=st.integers(0, 6))
def test_networks_never_overlap(taken: list[str], fresh: int) -> None:
    nodes = [node(f"old{index}", cidr=cidr) for index, cidr in enumerate(taken)] + [node(f"new{index}") for index in range(fresh)]
    plan = plan_cidrs(nodes, [parse_network("10.1.0.0/21")], [24])
    given_out = [parse_network(op.body["spec"]["podCIDR"]) for op in plan.ops if isinstance(op, Patch)]
    every = given_out + [parse_network(cidr) for cidr in taken if cidr]
    assert not any(one.overlaps(other) for index, one in enumerate(every) for other in every[:index])  # type: ignore[arg-type]
    refused = [op for op in plan.ops if isinstance(op, Told)]
    assert len(given_out) + len(refused) == sum(not each.spec.pod_cidr for each in nodes)


@pytest.mark.parametrize(("text", "mask", "complaint"), [
    ("", 24, "--cluster-cidr"), ("10.0.0.0/33", 24, "--cluster-cidr"), ("10.0.0.0/16", 8, "--node-cidr-mask-size"),
    ("10.0.0.0/16", 40, "--node-cidr-mask-size")])
def test_a_wrong_network_is_named(text: str, mask: int, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        cluster_networks(text, mask)


def test_durations() -> None:
    good = {"40": 40, "40s": 40, "1m30s": 90, "1h": 3600, "0.5": 0.5, "1h0m0s": 3600, "250ms": 0.25}
    assert {text: parse_duration(text, what="--x") for text in good} == good
    for text in ("soon", "", "1s later", "5 s", "-1s"):
        with pytest.raises(UserError, match="--x"):
            parse_duration(text, what="--x")


def daemons(image: str = "a", **spec: Any) -> DaemonSet:
    return msgspec.convert({
        "metadata": {"name": "d", "namespace": "d", "uid": "ds", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {
            "metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": image}]}}, **spec}}, DaemonSet)


def carry_out(pods: list[Pod], plan: Plan, *, ready: bool = True) -> list[Pod]:
    gone = {op.meta.name for op in plan.ops if isinstance(op, Delete)}
    made = [msgspec.convert({**op.body, "metadata": {**op.body["metadata"], "uid": op.body["metadata"]["name"]}, "status": {
        "phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}}, Pod)
        for op in plan.ops if isinstance(op, Create)]
    return [each for each in pods if each.metadata.name not in gone] + made


def test_a_daemon_on_every_node_that_may_have_one() -> None:
    nodes = [node("n1"), node("n2", taints=[{"key": "k", "effect": "NoSchedule"}]), node("n3", unschedulable=True),
             node("n4", ready="Unknown", taints=[taint(SILENT, NOW)])]
    pods = carry_out([], plan_daemons(daemons(), [], nodes, NOW, "w"))
    assert len(pods) == 3
    again = plan_daemons(daemons(), pods, nodes, NOW, "w")
    assert not any(isinstance(op, (Create, Delete)) for op in again.ops)
    status = next(op.body["status"] for op in again.ops if isinstance(op, Patch))
    assert status["desiredNumberScheduled"] == status["numberReady"] == status["updatedNumberScheduled"] == 3
    fewer = plan_daemons(daemons(), pods, nodes[1:], NOW, "w")
    assert sum(isinstance(op, Delete) for op in fewer.ops) == 1


def test_a_new_template_replaces_daemons_one_by_one() -> None:
    nodes = [node(f"n{index}") for index in range(3)]
    pods = carry_out([], plan_daemons(daemons(), [], nodes, NOW, "w"))
    for _ in range(12):
        plan = plan_daemons(daemons("b"), pods, nodes, NOW, "v")
        pods = carry_out(pods, plan)
        assert len(pods) >= 2
    hashes = {(each.metadata.labels or {})[HASH] for each in pods}
    assert len(pods) == 3
    assert len(hashes) == 1
