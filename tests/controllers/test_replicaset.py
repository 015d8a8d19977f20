"""A ReplicaSet whose view lags behind: never a pod too many, never one too few in the end."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from minik8s.controllers.ops import Create, Delete, Patch
from minik8s.controllers.pods import deletion_order
from minik8s.controllers.replicaset import plan_replicas
from minik8s.controllers.world import Collection
from nodecore.kube.resource import PODS
from nodecore.kube.workload import Pod, ReplicaSet

from .simulation import Simulation, meta


def replica_set(replicas: int) -> ReplicaSet:
    return msgspec.convert({
        "metadata": {"name": "web", "namespace": "d", "uid": "rs", "resourceVersion": "1"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}}}}, ReplicaSet)


class Lagging:
    """The API's pods, a watch that delivers late, and the collection that hears of both."""

    def __init__(self) -> None:
        self.sim = Simulation()
        self.events: list[tuple[str, dict[str, Any] | None, int]] = []
        self.cache: Collection[Pod] = Collection(PODS, Pod)
        self.most = 0

    def tell(self, name: str) -> None:
        self.events.append((f"d/{name}", self.sim.raw[PODS].get(name), next(self.sim.serial)))

    def sync(self, replicas: int) -> bool:
        self.sim.now += 1
        ops = plan_replicas(replica_set(replicas), self.cache.within("d"), self.sim.now).ops
        for op in ops:
            if isinstance(op, Create):
                self.cache.wrote(self.sim.add(PODS, op.body))
                self.tell(op.body["metadata"]["name"])
            elif isinstance(op, Delete):
                assert isinstance(op.meta.name, str)
                if op.meta.name in self.sim.raw[PODS]:
                    del self.sim.raw[PODS][op.meta.name]
                    self.tell(op.meta.name)
                self.cache.doomed(op.meta)
        return any(not isinstance(op, Patch) for op in ops)

    def deliver(self) -> None:
        if self.events:
            key, raw, version = self.events.pop(0)
            self.cache.saw(key, msgspec.convert(raw, Pod) if raw else None, version)

    def ready(self, index: int) -> None:
        self.sim.now += 1
        pods = sorted(self.sim.raw[PODS])
        if pods:
            self.sim.set_ready(index)
            for name in pods:
                self.tell(name)

    def lose(self, index: int) -> None:
        pods = sorted(self.sim.raw[PODS])
        if pods:
            name = pods[index % len(pods)]
            del self.sim.raw[PODS][name]
            self.tell(name)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["sync", "deliver", "ready", "lose", "size"]), st.integers(0, 6)), max_size=60))
def test_a_late_watch_never_makes_doubles(steps: list[tuple[str, int]]) -> None:
    api, replicas, bound, lost = Lagging(), 3, 3, False
    for step, number in steps:
        match step:
            case "sync":
                before = len(api.sim.raw[PODS])
                api.sync(replicas)
                assert len(api.sim.raw[PODS]) <= max(before, replicas)
                assert lost or len(api.sim.raw[PODS]) >= min(before, replicas)
            case "deliver":
                api.deliver()
            case "ready":
                api.ready(number)
            case "lose":
                api.lose(number)
                lost = True
            case "size":
                replicas = number
                bound = max(bound, number)
        assert len(api.sim.raw[PODS]) <= bound
    for _ in range(50):
        while api.events:
            api.deliver()
        if not api.sync(replicas):
            break
    assert len(api.sim.raw[PODS]) == replicas


def pod(name: str, *, node: str = "n", phase: str = "Running", ready: bool = True, since: str = "2026-01-01T00:00:00Z",
        **fields: Any) -> Pod:
    status = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": since}]}
    return msgspec.convert({"metadata": {"name": name, **fields}, "spec": {"nodeName": node}, "status": status}, Pod)


def test_the_least_loss_goes_first() -> None:
    pods = [
        pod("old", node="a"), pod("young", node="b", since="2026-02-01T00:00:00Z"),
        pod("cheap", node="f", annotations={"controller.kubernetes.io/pod-deletion-cost": "-5"}),
        pod("sick", node="c", ready=False), pod("pending", node="d", phase="Pending", ready=False),
        pod("nowhere", node="", phase="Pending", ready=False), pod("twin1", node="e"), pod("twin2", node="e"),
    ]
    order = [each.metadata.name for each in deletion_order(pods)]
    assert order[:4] == ["nowhere", "pending", "sick", "cheap"]
    assert set(order[4:6]) == {"twin1", "twin2"}
    assert order[6:] == ["young", "old"]


def test_orphans_that_match_are_adopted_and_strangers_released() -> None:
    owned = {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": True}]}
    pods = [pod("orphan", labels={"app": "web"}), pod("stranger", labels={"app": "other"}, **owned),
            pod("mine", labels={"app": "web"}, **owned)]
    ops = plan_replicas(replica_set(1), pods, 0.0).ops
    assert [op.describe() for op in ops if isinstance(op, Patch) and op.subresource is None] == [
        "patch Pod orphan: adopted by ReplicaSet web", "patch Pod stranger: released by its owner"]
    assert not any(isinstance(op, (Create, Delete)) for op in ops)


def test_an_answer_that_comes_after_the_watch_told_the_end_is_old_news() -> None:
    cache: Collection[Pod] = Collection(PODS, Pod)
    cache.saw("d/p", None, 9)
    cache.wrote({"metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": "9"}})
    assert cache.get("d/p") is None


def test_what_was_written_stays_until_the_watch_has_passed_it() -> None:
    cache: Collection[Pod] = Collection(PODS, Pod)
    cache.wrote({"metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": "7"}})
    cache.forget_passed(6)
    assert cache.get("d/p") is not None
    cache.forget_passed(8)
    assert cache.get("d/p") is None
    assert meta("x").key == "d/x"
