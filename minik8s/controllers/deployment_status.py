"""What a Deployment reports: counts and the conditions `kubectl rollout status` waits for.

Pure. Read next: `minik8s/controllers/deployment.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from nodecore.kube.workload import Condition, Deployment, DeploymentStatus, seconds, stamp

from .ops import Raw

COUNTS = (("observedGeneration", "observed_generation"), ("replicas", "replicas"), ("updatedReplicas", "updated_replicas"),
          ("readyReplicas", "ready_replicas"), ("availableReplicas", "available_replicas"),
          ("unavailableReplicas", "unavailable_replicas"))
COMPLETE = "NewReplicaSetAvailable"
DEFAULT_DEADLINE = 600
NO_DEADLINE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Seen:
    """The pods behind a Deployment, counted, and the name of its present ReplicaSet (made only now, if `fresh`)."""

    replicas: int
    updated: int
    ready: int
    available: int
    minimum: int
    new_set: str
    fresh: bool = False


def next_status(deployment: Deployment, seen: Seen, now: float) -> tuple[Raw | None, float | None]:
    """The status to write, None if it stands already, and when the deadline strikes."""
    old, wanted = deployment.status, deployment.spec.wanted
    counts = {
        "observedGeneration": deployment.metadata.generation, "replicas": seen.replicas, "updatedReplicas": seen.updated,
        "readyReplicas": seen.ready, "availableReplicas": seen.available,
        "unavailableReplicas": max(0, wanted - seen.available),
    }
    fresh = [_available(old, seen, now)]
    progressing, again = _progressing(deployment, seen, now)
    if progressing:
        fresh.append(progressing)
    kinds = {each.type for each in fresh}
    conditions = [each for each in old.conditions or () if each.type not in kinds and each.type != "Progressing"] + fresh
    same = all(getattr(old, field) == counts[key] for key, field in COUNTS)
    if same and sorted(map(repr, conditions)) == sorted(map(repr, old.conditions or ())):
        return None, again
    return {**counts, "conditions": [_raw(each) for each in conditions]}, again


def _raw(found: Condition) -> Raw:
    raw = {"type": found.type, "status": found.status, "reason": found.reason, "message": found.message,
           "lastTransitionTime": found.last_transition_time, "lastUpdateTime": found.last_update_time}
    return {key: value for key, value in raw.items() if value}


def _condition(old: Condition | None, fresh: Condition, now: float, *, touch: bool = False) -> Condition:
    """The condition, with the times of the old one as far as nothing changed."""
    if old and not touch and (old.status, old.reason, old.message) == (fresh.status, fresh.reason, fresh.message):
        return old
    turned = old.last_transition_time if old and old.status == fresh.status else stamp(now)
    return Condition(fresh.type, fresh.status, fresh.reason, fresh.message, turned, None, stamp(now))


def _available(old: DeploymentStatus, seen: Seen, now: float) -> Condition:
    if seen.available >= seen.minimum:
        fresh = Condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    else:
        fresh = Condition("Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    return _condition(old.condition("Available"), fresh, now)


def complete(deployment: Deployment, seen: Seen) -> bool:
    """Whether every wanted pod is of the present template and available, and no other is left."""
    wanted = deployment.spec.wanted
    return seen.updated == seen.replicas == seen.available == wanted


def _moved(old: DeploymentStatus, seen: Seen) -> bool:
    """Whether the rollout got further since the last status."""
    return (seen.updated > old.updated_replicas or seen.replicas - seen.updated < old.replicas - old.updated_replicas
            or seen.ready > old.ready_replicas or seen.available > old.available_replicas)


def _progressing(deployment: Deployment, seen: Seen, now: float) -> tuple[Condition | None, float | None]:
    spec, old = deployment.spec, deployment.status
    current = old.condition("Progressing")
    deadline = DEFAULT_DEADLINE if spec.progress_deadline_seconds is None else spec.progress_deadline_seconds
    if deadline == NO_DEADLINE:
        return None, None
    if spec.paused:
        fresh = Condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused")
        return _condition(current, fresh, now), None
    name = f'ReplicaSet "{seen.new_set}"'
    if current and current.reason == "DeploymentPaused":
        fresh = Condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed")
        return _condition(current, fresh, now), 0.01
    if seen.fresh:
        fresh = Condition("Progressing", "True", "NewReplicaSetCreated", f'Created new replica set "{seen.new_set}"')
        return _condition(current, fresh, now, touch=True), deadline
    if complete(deployment, seen):
        fresh = Condition("Progressing", "True", COMPLETE, f"{name} has successfully progressed.")
        return _condition(current, fresh, now), None
    if current is None or _moved(old, seen):
        fresh = Condition("Progressing", "True", "ReplicaSetUpdated", f"{name} is progressing.")
        return _condition(current, fresh, now, touch=True), deadline
    if current.reason == COMPLETE and seen.updated == seen.replicas:
        return current, None
    if current.reason == COMPLETE:
        fresh = Condition("Progressing", "True", "ReplicaSetUpdated", f"{name} is progressing.")
        return _condition(current, fresh, now), deadline
    left = seconds(current.last_update_time) + deadline - now
    if left > 0 or current.reason == "ProgressDeadlineExceeded":
        return current, left if left > 0 else None
    fresh = Condition("Progressing", "False", "ProgressDeadlineExceeded", f"{name} has timed out progressing.")
    return _condition(current, fresh, now), None
