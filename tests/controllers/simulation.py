"""Plans carried out on plain values: what the API would hold, with every write in order and nothing hidden.

Not an API: no validation, no HTTP. It turns ops into views, so that hypothesis can walk through orders of events.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from minik8s.controllers.deployment import plan_deployment
from minik8s.controllers.ops import Create, Delete, Op, Patch
from minik8s.controllers.replicaset import plan_replicas
from nodecore.kube.resource import DEPLOYMENTS, PODS, REPLICA_SETS, Resource
from nodecore.kube.workload import Deployment, Meta, Pod, ReplicaSet, stamp

VIEWS: dict[Resource, Any] = {PODS: Pod, REPLICA_SETS: ReplicaSet, DEPLOYMENTS: Deployment}


def merge(base: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return change
    base = dict(base) if isinstance(base, dict) else {}
    for key, value in change.items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = merge(base.get(key), value)
    return base


class Simulation:
    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.serial = itertools.count(1)
        self.raw: dict[Resource, dict[str, dict[str, Any]]] = {resource: {} for resource in VIEWS}

    def views(self, resource: Resource) -> list[Any]:
        return [msgspec.convert(raw, VIEWS[resource]) for raw in self.raw[resource].values()]

    def add(self, resource: Resource, body: dict[str, Any]) -> dict[str, Any]:
        name, number = body["metadata"]["name"], next(self.serial)
        assert name not in self.raw[resource], f"{resource.kind} {name} made twice"
        meta = {"namespace": "d", **body["metadata"], "uid": f"uid-{number}", "resourceVersion": str(number), "generation": 1,
                "creationTimestamp": stamp(self.now)}
        self.raw[resource][name] = {"status": {}, **body, "metadata": meta}
        return self.raw[resource][name]

    def change(self, resource: Resource, name: str, body: dict[str, Any]) -> None:
        raw = merge(self.raw[resource][name], body)
        raw["metadata"]["resourceVersion"] = str(next(self.serial))
        if "spec" in body:
            raw["metadata"]["generation"] += 1
        self.raw[resource][name] = raw

    def carry_out(self, ops: tuple[Op, ...]) -> None:
        for op in ops:
            match op:
                case Create():
                    self.add(op.resource, op.body)
                case Patch():
                    self.change(op.resource, op.meta.name, op.body)
                case Delete():
                    del self.raw[op.resource][op.meta.name]

    def step_deployments(self) -> bool:
        moved = False
        for deployment in self.views(DEPLOYMENTS):
            plan = plan_deployment(deployment, self.views(REPLICA_SETS), self.views(PODS), self.now)
            self.carry_out(plan.ops)
            moved = moved or bool(plan.ops)
        return moved

    def step_set(self, index: int) -> bool:
        sets = self.views(REPLICA_SETS)
        if not sets:
            return False
        plan = plan_replicas(sets[index % len(sets)], self.views(PODS), self.now)
        self.carry_out(plan.ops)
        return bool(plan.ops)

    def step_all(self) -> bool:
        return any([self.step_deployments(), *(self.step_set(index) for index in range(len(self.raw[REPLICA_SETS])))])

    def pods(self) -> list[Pod]:
        return self.views(PODS)

    def set_ready(self, index: int, *, ready: bool = True) -> bool:
        pods = [pod for pod in self.pods() if pod.ready is not ready]
        if not pods:
            return False
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": stamp(self.now)}
        self.change(PODS, pods[index % len(pods)].metadata.name, {"status": {"phase": "Running", "conditions": [condition]}})
        return True

    def settle(self) -> None:
        """Let everything happen until nothing more does."""
        for _ in range(500):
            self.now += 1
            moved = self.step_all()
            while self.set_ready(0):
                moved = True
            if not moved:
                return
        raise AssertionError("never comes to rest")


def deployment(replicas: int, image: str = "a", **spec: Any) -> dict[str, Any]:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}}
    return {"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                                                  "template": template, **spec}}


def image(name: str) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": name}]}}}}


def meta(name: str, **fields: Any) -> Meta:
    return msgspec.convert({"name": name, "namespace": "d", "uid": f"uid-{name}", "resourceVersion": "1", **fields}, Meta)
