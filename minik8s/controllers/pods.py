"""Pods as their owners see them: whose they are, made from a template, which to delete first.

Pure. Read next: `minik8s/controllers/replicaset.py`.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from nodecore.kube.labels import LabelSelector
from nodecore.kube.resource import PODS, Resource
from nodecore.kube.workload import Meta, Pod, seconds

from .ops import Op, Raw, Told, adopt, involved, owner_reference, release

ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}
MAX_NAME = 63


def digest(value: Any, salt: object = "", length: int = 10) -> str:
    """A short word for a value, of letters that cannot spell anything."""
    raw = msgspec.json.encode([value, str(salt)], order="deterministic")
    number = int.from_bytes(hashlib.sha256(raw).digest()[:16], "big")
    letters = []
    for _ in range(length):
        number, index = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[index])
    return "".join(letters)


@dataclass(frozen=True, slots=True)
class Claim:
    """Which pods belong to an owner, and the writes that make it so."""

    owned: tuple[Pod, ...]
    ops: tuple[Op, ...]


def claim(resource: Resource, owner: Meta, selector: LabelSelector | None, pods: Iterable[Pod]) -> Claim:
    """Own what names us and matches, adopt matching orphans, release what no longer matches."""
    owned: list[Pod] = []
    ops: list[Op] = []
    selecting = selector is not None and not selector.empty
    for pod in sorted(pods, key=lambda each: each.metadata.name):
        matches = selecting and selector is not None and selector.matches(pod.metadata.labels)
        controller = pod.metadata.controller
        if controller is not None and controller.uid == owner.uid:
            if matches or owner.deletion_timestamp:
                owned.append(pod)
            elif not pod.metadata.deletion_timestamp:
                ops.append(release(PODS, pod.metadata, owner.uid))
        elif controller is None and matches and pod.active and not owner.deletion_timestamp:
            ops.append(adopt(PODS, pod.metadata, resource, owner))
    return Claim(tuple(owned), tuple(ops))


def from_template(resource: Resource, owner: Meta, template: Raw, name: str) -> Raw:
    """A new pod object for an owner."""
    meta = template.get("metadata") or {}
    fresh: Raw = {"name": name, "namespace": owner.namespace, "generateName": owner.name[:MAX_NAME - 6] + "-",
                  "ownerReferences": [owner_reference(resource, owner)]}
    for part in ("labels", "annotations", "finalizers"):
        if meta.get(part):
            fresh[part] = copy.copy(meta[part])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": fresh, "spec": copy.deepcopy(template.get("spec") or {})}


def new_names(owner: Meta, count: int, taken: Collection[str], now: float) -> list[str]:
    """Names for new pods, `owner-xxxxx`, none of them taken."""
    names: list[str] = []
    serial = 0
    while len(names) < count:
        name = f"{owner.name[:MAX_NAME - 6]}-{digest([owner.uid, now, serial], length=5)}"
        serial += 1
        if name not in taken and name not in names:
            names.append(name)
    return names


def created(resource: Resource, owner: Meta, name: str) -> Told:
    """The event of a new pod."""
    return Told(involved(resource, owner), "SuccessfulCreate", f"Created pod: {name}")


def deleted(resource: Resource, owner: Meta, name: str) -> Told:
    """The event of a pod let go."""
    return Told(involved(resource, owner), "SuccessfulDelete", f"Deleted pod: {name}")


def deletion_order(pods: Iterable[Pod]) -> list[Pod]:
    """Whom to let go first: the pod that is the least loss.

    Unassigned, pending, not ready, cheap by annotation, doubled on its node, ready for the shortest time, often
    restarted, young.
    """
    found = list(pods)
    crowd: dict[str, int] = {}
    for pod in found:
        crowd[pod.spec.node_name] = crowd.get(pod.spec.node_name, 0) + 1

    def loss(pod: Pod) -> tuple[Any, ...]:
        ready = pod.condition("Ready")
        return (
            bool(pod.spec.node_name), PHASES.get(pod.status.phase, 1), pod.ready, _cost(pod), -crowd[pod.spec.node_name],
            -seconds(ready.last_transition_time) if ready and pod.ready else 0.0,
            -sum(each.restart_count for each in pod.status.container_statuses or ()),
            -seconds(pod.metadata.creation_timestamp), pod.metadata.name,
        )

    return sorted(found, key=loss)


def _cost(pod: Pod) -> int:
    text = (pod.metadata.annotations or {}).get(DELETION_COST, "0")
    try:
        return int(text)
    except ValueError:
        return 0


@dataclass(frozen=True, slots=True)
class Readiness:
    """How many pods are ready, how many have been for long enough, and when the next one will have been."""

    ready: int
    available: int
    next: float | None


def readiness(pods: Iterable[Pod], min_ready_seconds: int, now: float) -> Readiness:
    """Count ready and available pods."""
    ready = available = 0
    coming: list[float] = []
    for pod in pods:
        at = pod.available_at(min_ready_seconds)
        if at is None:
            continue
        ready += 1
        if at <= now:
            available += 1
        else:
            coming.append(at - now)
    return Readiness(ready, available, min(coming, default=None))
