"""ReplicaSets: so many pods of this template, no more and no less.

Decides creations, deletions, adoption and status. Must not know: Deployments. Read next: `minik8s/controllers/deployment.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nodecore.kube.labels import contains
from nodecore.kube.resource import PODS, REPLICA_SETS
from nodecore.kube.workload import Pod, ReplicaSet

from .ops import Create, Delete, Op, Patch, Plan, Raw
from .pods import claim, created, deleted, deletion_order, from_template, new_names, readiness
from .world import Collection

BURST = 500


def plan_replicas(rs: ReplicaSet, pods: Iterable[Pod], now: float) -> Plan:
    """The writes that bring one ReplicaSet to its number; `pods` are those of its namespace."""
    meta = rs.metadata
    everyone = list(pods)
    claimed = claim(REPLICA_SETS, meta, rs.spec.selector, everyone)
    active = [pod for pod in claimed.owned if pod.active]
    ops: list[Op] = list(claimed.ops)
    if not meta.deletion_timestamp and not claimed.ops:
        ops += _resize(rs, active, {pod.metadata.name for pod in everyone}, now)
    ready = readiness(active, rs.spec.min_ready_seconds, now)
    template = ((rs.spec.template or {}).get("metadata") or {}).get("labels")
    status: Raw = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(contains(pod.metadata.labels, template) for pod in active),
        "readyReplicas": ready.ready, "availableReplicas": ready.available, "observedGeneration": meta.generation,
    }
    if any((rs.status or {}).get(key, 0) != value for key, value in status.items()):
        ops.append(Patch(REPLICA_SETS, meta, {"status": status}, f"status {len(active)} pods", subresource="status"))
    return Plan(tuple(ops), ready.next)


def _resize(rs: ReplicaSet, active: list[Pod], taken: set[str], now: float) -> list[Op]:
    missing = rs.spec.wanted - len(active)
    if missing > 0:
        names = new_names(rs.metadata, min(missing, BURST), taken, now)
        template = rs.spec.template or {}
        return [Create(PODS, from_template(REPLICA_SETS, rs.metadata, template, name), created(REPLICA_SETS, rs.metadata, name))
                for name in names]
    victims = deletion_order(active)[:min(-missing, BURST)] if missing else []
    return [Delete(PODS, pod.metadata, "one too many", tell=deleted(REPLICA_SETS, rs.metadata, pod.metadata.name))
            for pod in victims]


class ReplicaSets:
    """The controller around `plan_replicas`."""

    name = "replicaset"

    def __init__(self, sets: Collection[ReplicaSet], pods: Collection[Pod]) -> None:
        self.sets, self.pods = sets, pods

    def listen(self, mark: Callable[[str], None]) -> None:
        """A set's own change marks it; a pod's marks its owner, or whoever would adopt it."""
        def of_set(old: ReplicaSet | None, new: ReplicaSet | None) -> None:
            if new is not None:
                mark(new.metadata.key)

        def of_pod(old: Pod | None, new: Pod | None) -> None:
            for pod in (old, new):
                if pod is not None:
                    self._mark_owner(pod, mark)

        self.sets.listeners.append(of_set)
        self.pods.listeners.append(of_pod)

    def _mark_owner(self, pod: Pod, mark: Callable[[str], None]) -> None:
        controller = pod.metadata.controller
        if controller is not None:
            if controller.kind == "ReplicaSet":
                mark(f"{pod.metadata.namespace}/{controller.name}")
            return
        for rs in self.sets.within(pod.metadata.namespace):
            if rs.spec.selector and rs.spec.selector.matches(pod.metadata.labels):
                mark(rs.metadata.key)

    def plan(self, key: str, now: float) -> Plan:
        """The set's writes, none once it is gone."""
        rs = self.sets.get(key)
        return plan_replicas(rs, self.pods.within(rs.metadata.namespace), now) if rs else Plan()
