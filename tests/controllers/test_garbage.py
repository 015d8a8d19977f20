"""Owner references: what goes when its owner goes, and how."""

from __future__ import annotations

from typing import Any

import msgspec

from minik8s.controllers.garbage import Garbage, plan_pods
from minik8s.controllers.world import Collection
from nodecore.kube.resource import DEPLOYMENTS, PODS, REPLICA_SETS, Resource
from nodecore.kube.workload import Anything, Pod


class Scene:
    def __init__(self) -> None:
        self.collections: dict[Resource, Collection[Any]] = {
            each: Collection(each, Anything) for each in (DEPLOYMENTS, REPLICA_SETS, PODS)}
        self.garbage = Garbage(self.collections)
        self.marked: set[str] = set()
        self.garbage.listen(lambda key: self.marked.add(key))
        self.version = 1

    def put(self, resource: Resource, name: str, *, owner: str = "", kind: str = "ReplicaSet", **meta: Any) -> None:
        self.version += 1
        refs = [{"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": f"uid-{owner}", "controller": True,
                 "blockOwnerDeletion": True}] if owner else []
        body = {"metadata": {"name": name, "namespace": "d", "uid": f"uid-{name}", "resourceVersion": str(self.version),
                             "ownerReferences": refs, **meta}}
        self.collections[resource].saw(f"d/{name}", msgspec.convert(body, Anything), self.version)

    def drop(self, resource: Resource, name: str) -> None:
        self.version += 1
        self.collections[resource].saw(f"d/{name}", None, self.version)

    def words(self) -> list[str]:
        keys, self.marked = self.marked, set()
        return [op.describe() for key in sorted(keys) for op in self.garbage.plan(key, 0.0).ops]


def scene() -> Scene:
    found = Scene()
    found.put(DEPLOYMENTS, "web")
    found.put(REPLICA_SETS, "rs", owner="web", kind="Deployment")
    found.put(PODS, "p", owner="rs")
    return found


def test_nothing_goes_while_its_owner_is_there() -> None:
    assert scene().words() == []


def test_background_follows_the_chain_down() -> None:
    found = scene()
    found.marked.clear()
    found.drop(DEPLOYMENTS, "web")
    assert found.words() == ["delete ReplicaSet d/rs if its owner is gone: Deployment web"]
    found.drop(REPLICA_SETS, "rs")
    assert found.words() == ["delete Pod d/p if its owner is gone: ReplicaSet rs"]


def test_an_owner_of_a_kind_we_do_not_know_is_left_alone() -> None:
    found = scene()
    found.put(PODS, "q", owner="x", kind="Mystery")
    assert found.words() == []


def test_foreground_waits_for_the_dependants() -> None:
    found = scene()
    found.marked.clear()
    found.put(DEPLOYMENTS, "web", deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["foregroundDeletion"])
    assert found.words() == ["delete ReplicaSet d/rs: goes with Deployment web"]
    found.drop(REPLICA_SETS, "rs")
    assert "patch Deployment d/web: finalizer foregroundDeletion is done" in found.words()


def test_orphans_are_let_go_first() -> None:
    found = scene()
    found.marked.clear()
    found.put(DEPLOYMENTS, "web", deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["orphan"])
    assert found.words() == ["patch ReplicaSet d/rs: released by its owner"]
    found.put(REPLICA_SETS, "rs")
    assert "patch Deployment d/web: finalizer orphan is done" in found.words()


def test_pods_without_their_node_go() -> None:
    def pod(name: str, node: str = "", phase: str = "Running", **meta: Any) -> Pod:
        return msgspec.convert({"metadata": {"name": name, **meta}, "spec": {"nodeName": node}, "status": {"phase": phase}}, Pod)

    pods = [pod("here", "n1"), pod("lost", "n2"), pod("never", deletionTimestamp="2026-01-01T00:00:00Z"),
            pod("done1", "n1", "Succeeded", creationTimestamp="2026-01-01T00:00:00Z"),
            pod("done2", "n1", "Failed", creationTimestamp="2026-01-02T00:00:00Z")]
    assert [op.describe() for op in plan_pods(pods, ["n1"], limit=1).ops] == [
        "delete Pod lost if its owner is gone: Node n2", "delete Pod never: never had a node",
        "delete Pod done1: too many finished pods"]
