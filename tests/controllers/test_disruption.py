"""A budget's numbers: what is expected, desired, healthy and allowed, and how long an evicted pod is counted as going."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from minik8s.controllers.disruption import PATIENCE, Budget, Disruptions, Scaled, Unknown, plan_budget
from minik8s.controllers.ops import Patch, Told
from minik8s.controllers.world import Collection
from nodecore.kube.resource import DEPLOYMENTS, DISRUPTION_BUDGETS, PODS, REPLICA_SETS
from nodecore.kube.workload import OwnerReference, Pod, stamp

from .simulation import merge

NOW = 1_000_000.0
FEWER = [{"type": "DisruptionAllowed", "status": "False"}]


def pod(name: str, *, ready: bool = True, owner: str = "ReplicaSet/rs", going: bool = False) -> Pod:
    kind, _, of = owner.partition("/")
    meta: dict[str, Any] = {"name": name, "namespace": "d", "labels": {"app": "web"}, "uid": f"uid-{name}"}
    if owner:
        meta["ownerReferences"] = [{"kind": kind, "name": of, "uid": f"uid-{of}", "controller": True}]
    if going:
        meta["deletionTimestamp"] = stamp(NOW)
    return msgspec.convert({"metadata": meta, "status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}, Pod)


def budget(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "b", "namespace": "d", "generation": 3, "resourceVersion": "9"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec}, "status": status or {}}


def find(namespace: str, owner: OwnerReference) -> Any:
    above = [{"kind": "Deployment", "name": "dep", "uid": "uid-dep", "controller": True}]
    known: dict[str, Any] = {"rs": {"metadata": {"uid": "uid-rs", "ownerReferences": above}, "spec": {"replicas": 9}},
                             "dep": {"metadata": {"uid": "uid-dep"}, "spec": {"replicas": 10}},
                             "alone": {"metadata": {"uid": "uid-alone"}, "spec": {}}}
    if owner.kind == "DaemonSet":
        raise Unknown("DaemonSet x has no scale")
    return msgspec.convert(known[owner.name], Scaled) if owner.name in known else None


def numbers(raw: dict[str, Any], pods: list[Pod], now: float = NOW) -> Any:
    ops = plan_budget(msgspec.convert(raw, Budget), pods, find, now).ops
    return ops[0].body["status"] if ops and isinstance(ops[0], Patch) else None


@pytest.mark.parametrize(("spec", "wanted"), [
    ({"minAvailable": 3}, (3, 4, 1)), ({"minAvailable": 5}, (5, 4, 0)), ({"minAvailable": 0}, (0, 4, 4)),
    ({"minAvailable": "35%"}, (4, 4, 0)), ({"minAvailable": "30%"}, (3, 4, 1)),
    ({"maxUnavailable": 7}, (3, 4, 1)), ({"maxUnavailable": "61%"}, (3, 4, 1)), ({"maxUnavailable": "100%"}, (0, 4, 4)),
    ({"maxUnavailable": 0}, (10, 4, 0)), ({}, (0, 4, 4)),
])
def test_what_is_allowed(spec: dict[str, Any], wanted: tuple[int, int, int]) -> None:
    pods = [pod(str(i)) for i in range(4)] + [pod("ill", ready=False), pod("leaving", going=True)]
    found = numbers(budget(**spec), pods)
    assert (found["desiredHealthy"], found["currentHealthy"], found["disruptionsAllowed"]) == wanted
    assert found["expectedPods"] == (10 if spec and not isinstance(spec.get("minAvailable"), int) else 6)
    assert found["observedGeneration"] == 3
    assert found["conditions"][0]["reason"] == ("SufficientPods" if wanted[2] else "InsufficientPods")


def test_what_stands_is_not_written_again() -> None:
    pods = [pod(str(i)) for i in range(4)]
    raw = budget(minAvailable=3)
    raw["status"] = merge(raw["status"], numbers(raw, pods))
    assert numbers(raw, pods) is None
    assert numbers(raw, pods[:3])["disruptionsAllowed"] == 0


def test_an_evicted_pod_counts_as_going_until_it_is_gone() -> None:
    pods = [pod("a"), pod("b"), pod("c")]
    raw = budget({"disruptedPods": {"a": stamp(NOW), "gone": stamp(NOW)}}, minAvailable=1)
    found = numbers(raw, pods)
    assert (found["currentHealthy"], found["disruptionsAllowed"]) == (2, 1)
    assert found["disruptedPods"] == {"a": stamp(NOW), "gone": None}
    assert plan_budget(msgspec.convert(raw, Budget), pods, find, NOW).again == PATIENCE
    late = numbers(raw, pods, NOW + PATIENCE + 1)
    assert (late["currentHealthy"], late["disruptedPods"]["a"]) == (3, None)
    left = numbers(raw, [pod("a", going=True), *pods[1:]])
    assert (left["currentHealthy"], left["disruptedPods"]["a"]) == (2, None)


def test_whose_number_nobody_knows_nothing_may_go() -> None:
    raw = msgspec.convert(budget(maxUnavailable=1), Budget)
    write, told = plan_budget(raw, [pod("x", owner="DaemonSet/x")], find, NOW).ops
    assert isinstance(write, Patch)
    assert isinstance(told, Told)
    assert write.version == "9"
    assert write.body["status"]["disruptionsAllowed"] == 0
    assert write.body["status"]["conditions"][0]["reason"] == "SyncFailed"
    assert numbers(budget(maxUnavailable=1), [pod("x", owner="")])["expectedPods"] == 0
    assert numbers(budget(maxUnavailable=0), [pod("x", owner="ReplicaSet/alone")])["expectedPods"] == 1
    assert numbers(budget(maxUnavailable="nonsense"), [pod("x")])["conditions"][0]["reason"] == "SyncFailed"


def test_who_is_looked_at_again() -> None:
    budgets, pods = Collection(DISRUPTION_BUDGETS, Budget), Collection(PODS, Pod)
    scaled = {"Deployment": Collection(DEPLOYMENTS, Scaled), "ReplicaSet": Collection(REPLICA_SETS, Scaled)}
    controller, marked = Disruptions(budgets, pods, scaled), []
    controller.listen(marked.append)
    budgets.saw("d/b", msgspec.convert(budget(minAvailable=1), Budget), 1)
    pods.saw("d/a", pod("a"), 2)
    pods.saw("e/a", pod("a"), 2)
    scaled["Deployment"].saw("d/dep", msgspec.convert({"metadata": {"namespace": "d"}, "spec": {"replicas": 2}}, Scaled), 3)
    scaled["Deployment"].saw("d/dep", msgspec.convert({"metadata": {"namespace": "d"}, "spec": {"replicas": 2}}, Scaled), 4)
    assert marked == ["d/b", "d/b", "d/b", "d/b"]
    assert controller.plan("d/b", NOW).ops
    assert not controller.plan("d/other", NOW).ops
