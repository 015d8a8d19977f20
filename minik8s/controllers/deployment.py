"""Deployments: a ReplicaSet for each template, and the walk from the old ones to the new one.

Decides which sets exist, how large each is, their revision numbers, and the status. It counts pods itself, so that a
ReplicaSet's late status never misleads it. Must not know: how sets make pods. Read next: `minik8s/controllers/rollout.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nodecore.kube.resource import DEPLOYMENTS, REPLICA_SETS
from nodecore.kube.workload import Deployment, Pod, ReplicaSet

from . import revisions, rollout
from .deployment_status import Seen, complete, next_status
from .ops import Create, Delete, Op, Patch, Plan, Raw, Told, involved, soonest
from .pods import readiness
from .revisions import Family
from .rollout import Count
from .world import Collection

HISTORY_LIMIT = 10


class _Case:
    """One Deployment with everything counted once."""

    def __init__(self, deployment: Deployment, sets: Iterable[ReplicaSet], pods: Iterable[Pod], now: float) -> None:
        self.deployment, self.now = deployment, now
        everyone = list(sets)
        self.names = {rs.metadata.name for rs in everyone}
        self.family: Family = revisions.family(deployment, everyone)
        self.replicas = deployment.spec.wanted
        surge, unavailable = rollout.limits(deployment.spec.strategy.rolling_update, self.replicas)
        self.recreate = deployment.spec.strategy.type == "Recreate"
        self.surge, self.unavailable = (0, self.replicas) if self.recreate else (surge, unavailable)
        self.again: float | None = None
        self.pods: dict[str, list[Pod]] = {rs.metadata.uid: [] for rs in self.family.all}
        for pod in pods:
            controller = pod.metadata.controller
            if controller and controller.uid in self.pods:
                self.pods[controller.uid].append(pod)
        self.counts = {rs.metadata.uid: self._count(rs) for rs in self.family.all}
        self.new_count = self.counts[self.family.new.metadata.uid] if self.family.new else Count("", 0)
        self.old_counts = [self.counts[rs.metadata.uid] for rs in self.family.old]

    def _count(self, rs: ReplicaSet) -> Count:
        active = [pod for pod in self.pods[rs.metadata.uid] if pod.active]
        found = readiness(active, self.deployment.spec.min_ready_seconds, self.now)
        self.again = soonest(self.again, found.next)
        return Count(rs.metadata.name, rs.spec.wanted, len(active), found.available)

    def seen(self, *, fresh: bool) -> Seen:
        """The counts for the status."""
        active = [pod for pods in self.pods.values() for pod in pods if pod.active]
        return Seen(
            replicas=len(active), updated=self.new_count.present,
            ready=readiness(active, 0, self.now).ready,
            available=sum(count.available for count in self.counts.values()),
            minimum=max(0, self.replicas - self.unavailable),
            new_set=self.family.new.metadata.name if self.family.new else revisions.set_name(self.deployment), fresh=fresh,
        )


def plan_deployment(deployment: Deployment, sets: Iterable[ReplicaSet], pods: Iterable[Pod], now: float) -> Plan:
    """The writes for one Deployment now; `sets` and `pods` are those of its namespace."""
    if deployment.metadata.deletion_timestamp:
        return Plan()
    case = _Case(deployment, sets, pods, now)
    if case.family.ops:
        return Plan(case.family.ops)
    ops: list[Op] = []
    if deployment.spec.paused or _resized(case):
        ops += _scale(case)
    else:
        ops += _roll(case)
    fresh = any(isinstance(op, Create) for op in ops)
    seen = case.seen(fresh=fresh)
    if not ops and complete(deployment, seen):
        ops += _clean(case)
    status, deadline = next_status(deployment, seen, now)
    if status is not None:
        ops.append(Patch(DEPLOYMENTS, deployment.metadata, {"status": status},
                         f"status {seen.updated} updated, {seen.available} available", subresource="status"))
    return Plan(tuple(ops), soonest(case.again, deadline))


def _resized(case: _Case) -> bool:
    """Whether the Deployment's size was changed since its sets were last sized."""
    return any(rs.spec.wanted and (rs.metadata.annotations or {}).get(revisions.DESIRED) != str(case.replicas)
               for rs in case.family.all)


def _resize(case: _Case, rs: ReplicaSet, size: int, annotations: dict[str, str] | None = None) -> list[Op]:
    """Give a set another size and its annotations; nothing if it has both."""
    change = {**(revisions.sizes(case.replicas, case.surge) if rs.spec.wanted or size else {}), **(annotations or {})}
    have = rs.metadata.annotations or {}
    missing = {key: value for key, value in change.items() if have.get(key) != value}
    spec: Raw = {}
    if size != rs.spec.wanted:
        spec["replicas"] = size
    if rs is case.family.new and rs.spec.min_ready_seconds != case.deployment.spec.min_ready_seconds:
        spec["minReadySeconds"] = case.deployment.spec.min_ready_seconds
    if not missing and not spec:
        return []
    body: Raw = {**({"spec": spec} if spec else {}), **({"metadata": {"annotations": missing}} if missing else {})}
    return [Patch(REPLICA_SETS, rs.metadata, body, f"{rs.spec.wanted} -> {size} replicas", version=rs.metadata.resource_version,
                  tell=_told(case, rs.metadata.name, rs.spec.wanted, size))]


def _told(case: _Case, name: str, before: int, after: int) -> Told | None:
    if before == after:
        return None
    way = "up" if after > before else "down"
    return Told(involved(DEPLOYMENTS, case.deployment.metadata), "ScalingReplicaSet",
                f"Scaled {way} replica set {name} from {before} to {after}")


def _scale(case: _Case) -> list[Op]:
    """Follow a change of size: one set takes all of it, several share it in proportion."""
    family, total = case.family, case.replicas
    active = [rs for rs in family.all if rs.spec.wanted]
    if len(active) <= 1:
        only = active[0] if active else family.new or (family.old[-1] if family.old else None)
        return _resize(case, only, total) if only else []
    if case.new_count.spec == case.replicas and case.new_count.available >= case.replicas:
        return [op for rs in active for op in _resize(case, rs, rs.spec.wanted if rs is family.new else 0)]
    if not _resized(case):
        return []
    shares = {rs.metadata.name: rs.spec.wanted for rs in active}
    wanted = rollout.scale_in_proportion(shares, total + case.surge if total else 0)
    return [op for rs in active for op in _resize(case, rs, wanted[rs.metadata.name])]


def _roll(case: _Case) -> list[Op]:
    """One step of the way to the present template."""
    if case.recreate:
        size, olds = _recreate(case)
    else:
        size = rollout.grow_new(case.new_count, case.old_counts, case.replicas, case.surge)
        olds = rollout.shrink_old(case.new_count, case.old_counts, case.replicas, case.unavailable)
    ops = _ensure_new(case, size)
    for rs in case.family.old:
        if rs.metadata.name in olds:
            ops += _resize(case, rs, olds[rs.metadata.name])
    return ops


def _recreate(case: _Case) -> tuple[int, dict[str, int]]:
    """Nothing new before the last old pod has gone, its last seconds included."""
    left = any(not pod.finished for rs in case.family.old for pod in case.pods[rs.metadata.uid])
    return case.new_count.spec if left else case.replicas, {rs.metadata.name: 0 for rs in case.family.old if rs.spec.wanted}


def _ensure_new(case: _Case, size: int) -> list[Op]:
    """The present template's set, with its size and number, and the Deployment's own number."""
    deployment, new = case.deployment, case.family.new
    number = revisions.next_revision(case.family.old)
    if new is None:
        name = revisions.set_name(deployment)
        if name in case.names:
            count = (deployment.status.collision_count or 0) + 1
            return [Patch(DEPLOYMENTS, deployment.metadata, {"status": {"collisionCount": count}}, f"{name} is taken",
                          subresource="status")]
        body = revisions.new_set(deployment, number, size, case.surge)
        return [Create(REPLICA_SETS, body, _told(case, name, 0, size)), *_number(case, number)]
    number = max(number, revisions.revision(new))
    annotations = {**revisions.inherited(deployment), **revisions.renumbered(new, number)}
    return [*_resize(case, new, size, annotations), *_number(case, number)]


def _number(case: _Case, number: int) -> list[Op]:
    meta = case.deployment.metadata
    if (meta.annotations or {}).get(revisions.REVISION) == str(number):
        return []
    return [Patch(DEPLOYMENTS, meta, {"metadata": {"annotations": {revisions.REVISION: str(number)}}}, f"revision {number}")]


def _clean(case: _Case) -> list[Op]:
    """Let the oldest empty sets go, beyond those kept for a rollback."""
    limit = case.deployment.spec.revision_history_limit
    keep = HISTORY_LIMIT if limit is None else limit
    empty = [rs for rs in sorted(case.family.old, key=revisions.revision)
             if not rs.spec.wanted and not case.pods[rs.metadata.uid] and not rs.metadata.deletion_timestamp]
    return [Delete(REPLICA_SETS, rs.metadata, "beyond the revision history limit") for rs in empty[:max(0, len(empty) - keep)]]


class Deployments:
    """The controller around `plan_deployment`."""

    name = "deployment"

    def __init__(self, deployments: Collection[Deployment], sets: Collection[ReplicaSet], pods: Collection[Pod]) -> None:
        self.deployments, self.sets, self.pods = deployments, sets, pods

    def listen(self, mark: Callable[[str], None]) -> None:
        """Marked by its own change, its sets' and their pods'."""
        def of_deployment(old: Deployment | None, new: Deployment | None) -> None:
            if new is not None:
                mark(new.metadata.key)

        def of_set(old: ReplicaSet | None, new: ReplicaSet | None) -> None:
            for rs in (old, new):
                if rs is not None:
                    self._mark_owner(rs, mark)

        def of_pod(old: Pod | None, new: Pod | None) -> None:
            pod = new or old
            owner = pod.metadata.controller if pod else None
            rs = self.sets.get(f"{pod.metadata.namespace}/{owner.name}") if pod and owner and owner.kind == "ReplicaSet" else None
            if rs is not None:
                self._mark_owner(rs, mark)

        self.deployments.listeners.append(of_deployment)
        self.sets.listeners.append(of_set)
        self.pods.listeners.append(of_pod)

    def _mark_owner(self, rs: ReplicaSet, mark: Callable[[str], None]) -> None:
        owner = rs.metadata.controller
        if owner is not None:
            if owner.kind == "Deployment":
                mark(f"{rs.metadata.namespace}/{owner.name}")
            return
        for deployment in self.deployments.within(rs.metadata.namespace):
            if deployment.spec.selector and deployment.spec.selector.matches(rs.metadata.labels):
                mark(deployment.metadata.key)

    def plan(self, key: str, now: float) -> Plan:
        """The Deployment's writes, none once it is gone."""
        found = self.deployments.get(key)
        if found is None:
            return Plan()
        namespace = found.metadata.namespace
        return plan_deployment(found, self.sets.within(namespace), self.pods.within(namespace), now)
