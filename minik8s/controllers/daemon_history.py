"""A DaemonSet's past templates as ControllerRevisions: what `kubectl rollout history` lists and `rollout undo` takes back.

    the present template has a revision    it gets the highest number, should it be an old one that came back
    it has none                            one is made, named by the template's word, numbered one higher than all
    others                                 go, oldest first, beyond the limit and when no pod is made from them

A revision's data is the patch that brings its template back. Pure. Read next: `minik8s/controllers/daemonset.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from nodecore.kube.objects import View
from nodecore.kube.resource import CONTROLLER_REVISIONS, DAEMON_SETS
from nodecore.kube.workload import DaemonSet, Meta

from .ops import Create, Delete, Op, Patch, Raw, adopt, owner_reference
from .pods import digest
from .revisions import NOT_INHERITED, template_of

HASH = "controller-revision-hash"


class ControllerRevision(View, frozen=True):
    """apps/v1 ControllerRevision."""

    metadata: Meta = Meta()
    data: Raw | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """The word pods of the present template are labelled with, and the writes that keep the history."""

    word: str
    ops: tuple[Op, ...] = ()


def plan_history(daemons: DaemonSet, revisions: Iterable[ControllerRevision], used: Collection[str]) -> History:
    """The history of one DaemonSet; `revisions` are those of its namespace, `used` the words its pods are labelled with."""
    meta, selector = daemons.metadata, daemons.spec.selector
    owned, ops = [], list[Op]()
    for each in revisions:
        controller = each.metadata.controller
        if controller is not None and controller.uid == meta.uid:
            owned.append(each)
        elif controller is None and selector is not None and not selector.empty and selector.matches(each.metadata.labels) \
                and not each.metadata.deletion_timestamp and not meta.deletion_timestamp:
            ops.append(adopt(CONTROLLER_REVISIONS, each.metadata, DAEMON_SETS, meta))
    owned.sort(key=lambda each: (each.revision, each.metadata.name))
    wanted = template_of(daemons.spec.template)
    present = next((each for each in reversed(owned) if _template(each) == wanted), None)
    word = (present.metadata.labels or {}).get(HASH, "") if present else ""
    word = word or digest(wanted)
    if meta.deletion_timestamp or ops:
        return History(word, tuple(ops))
    others = [each for each in owned if each is not present]
    highest = others[-1].revision if others else 0
    if present is None:
        ops.append(Create(CONTROLLER_REVISIONS, _new(daemons, word, highest + 1)))
    elif present.revision <= highest:
        ops.append(Patch(CONTROLLER_REVISIONS, present.metadata, {"revision": highest + 1}, f"is revision {highest + 1} now",
                         version=present.metadata.resource_version))
    return History(word, (*ops, *_trim(others, daemons.spec.revision_history_limit, used)))


def _template(revision: ControllerRevision) -> Raw:
    template = ((revision.data or {}).get("spec") or {}).get("template") or {}
    return template_of({key: value for key, value in template.items() if key != "$patch"})


def _new(daemons: DaemonSet, word: str, number: int) -> Raw:
    meta, template = daemons.metadata, copy.deepcopy(daemons.spec.template or {})
    labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH: word}
    annotations = {key: value for key, value in (meta.annotations or {}).items() if key not in NOT_INHERITED}
    return {
        "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": number,
        "metadata": {"name": f"{meta.name}-{word}", "namespace": meta.namespace, "labels": labels, "annotations": annotations,
                     "ownerReferences": [owner_reference(DAEMON_SETS, meta)]},
        "data": {"spec": {"template": {**template, "$patch": "replace"}}},
    }


def _trim(others: Sequence[ControllerRevision], limit: int, used: Collection[str]) -> list[Op]:
    idle = [each for each in others if (each.metadata.labels or {}).get(HASH, "") not in used
            and not each.metadata.deletion_timestamp]
    return [Delete(CONTROLLER_REVISIONS, each.metadata, "beyond the revision history limit")
            for each in idle[:max(0, len(others) - limit)]]
