"""A Deployment's ReplicaSets: which one is the present template's, its revision number, a new one's body.

The annotations are those kubectl reads for `rollout history` and `rollout undo`. Pure.
Read next: `minik8s/controllers/deployment.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nodecore.kube.labels import LabelSelector
from nodecore.kube.resource import DEPLOYMENTS, REPLICA_SETS
from nodecore.kube.workload import Deployment, ReplicaSet

from .ops import Op, Raw, adopt, owner_reference, release
from .pods import digest

HASH = "pod-template-hash"
PREFIX = "deployment.kubernetes.io/"
REVISION, HISTORY = f"{PREFIX}revision", f"{PREFIX}revision-history"
DESIRED, MAXIMUM = f"{PREFIX}desired-replicas", f"{PREFIX}max-replicas"
NOT_INHERITED = {REVISION, HISTORY, DESIRED, MAXIMUM, "kubectl.kubernetes.io/last-applied-configuration",
                 "deprecated.deployment.rollback.to"}


@dataclass(frozen=True, slots=True)
class Family:
    """The ReplicaSets of one Deployment, oldest first, and the writes that adopt or release others."""

    new: ReplicaSet | None
    old: tuple[ReplicaSet, ...]
    ops: tuple[Op, ...]

    @property
    def all(self) -> tuple[ReplicaSet, ...]:
        """Old ones, then the new one."""
        return (*self.old, self.new) if self.new else self.old


def revision(rs: ReplicaSet) -> int:
    """Its number, 0 where it has none."""
    text = (rs.metadata.annotations or {}).get(REVISION, "0")
    return int(text) if text.isdigit() else 0


def bare(value: Any) -> Any:
    """A template without what says nothing: nulls, empty maps and lists."""
    if isinstance(value, dict):
        return {key: bare(each) for key, each in value.items() if each is not None and each not in ({}, [])}
    return [bare(each) for each in value] if isinstance(value, list) else value


def template_of(template: Raw | None) -> Raw:
    """A template to compare: bare, without the hash label."""
    copied = copy.deepcopy(template or {})
    labels = (copied.get("metadata") or {}).get("labels") or {}
    labels.pop(HASH, None)
    cleaned: Raw = bare(bare(copied))
    return cleaned


def family(deployment: Deployment, sets: Iterable[ReplicaSet]) -> Family:
    """Sort out which sets of the namespace are ours."""
    meta, selector = deployment.metadata, deployment.spec.selector
    owned: list[ReplicaSet] = []
    ops: list[Op] = []
    for rs in sets:
        matches = selector is not None and not selector.empty and selector.matches(rs.metadata.labels)
        controller = rs.metadata.controller
        if controller is not None and controller.uid == meta.uid:
            if matches:
                owned.append(rs)
            else:
                ops.append(release(REPLICA_SETS, rs.metadata, meta.uid))
        elif controller is None and matches and not rs.metadata.deletion_timestamp:
            ops.append(adopt(REPLICA_SETS, rs.metadata, DEPLOYMENTS, meta))
    owned.sort(key=lambda rs: (rs.metadata.creation_timestamp or "", revision(rs), rs.metadata.name))
    wanted = template_of(deployment.spec.template)
    new = next((rs for rs in owned if not rs.metadata.deletion_timestamp and template_of(rs.spec.template) == wanted), None)
    return Family(new, tuple(rs for rs in owned if rs is not new), tuple(ops))


def next_revision(old: Sequence[ReplicaSet]) -> int:
    """The number the present template's set must carry at least."""
    return max((revision(rs) for rs in old), default=0) + 1


def inherited(deployment: Deployment) -> dict[str, str]:
    """The annotations a ReplicaSet takes over, the change cause among them."""
    return {key: value for key, value in (deployment.metadata.annotations or {}).items() if key not in NOT_INHERITED}


def sizes(replicas: int, surge: int) -> dict[str, str]:
    """The annotations by which a later change of the Deployment's size is noticed."""
    return {DESIRED: str(replicas), MAXIMUM: str(replicas + surge)}


def set_name(deployment: Deployment) -> str:
    """The name of the present template's set."""
    return f"{deployment.metadata.name}-{template_hash(deployment)}"


def template_hash(deployment: Deployment) -> str:
    """The template as a word; another one after a name collision."""
    return digest(template_of(deployment.spec.template), deployment.status.collision_count or "")


def new_set(deployment: Deployment, number: int, replicas: int, surge: int) -> Raw:
    """The body of the present template's ReplicaSet."""
    word = template_hash(deployment)
    template = copy.deepcopy(deployment.spec.template or {})
    labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH: word}
    template["metadata"] = {**(template.get("metadata") or {}), "labels": labels}
    meta = deployment.metadata
    return {
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": set_name(deployment), "namespace": meta.namespace, "labels": labels,
            "annotations": {**inherited(deployment), **sizes(deployment.spec.wanted, surge), REVISION: str(number)},
            "ownerReferences": [owner_reference(DEPLOYMENTS, meta)],
        },
        "spec": {"replicas": replicas, "minReadySeconds": deployment.spec.min_ready_seconds,
                 "selector": _selector(deployment.spec.selector, word), "template": template},
    }


def _selector(selector: LabelSelector | None, word: str) -> Raw:
    selector = selector or LabelSelector()
    raw: Raw = {"matchLabels": {**(selector.match_labels or {}), HASH: word}}
    if selector.match_expressions:
        raw["matchExpressions"] = [
            {"key": part.key, "operator": part.operator, **({"values": part.values} if part.values else {})}
            for part in selector.match_expressions]
    return raw


def renumbered(rs: ReplicaSet, number: int) -> dict[str, str]:
    """The annotations of a set that takes a new number: the one it had goes into its history."""
    had = revision(rs)
    if had >= number:
        return {}
    history = (rs.metadata.annotations or {}).get(HISTORY, "")
    past = [each for each in (history, str(had) if had else "") if each]
    return {REVISION: str(number), **({HISTORY: ",".join(past)} if past else {})}
