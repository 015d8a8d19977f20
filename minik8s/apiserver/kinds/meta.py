"""An object's metadata through its life: made, changed, marked for deletion, gone.

Pure: time, uid and random suffix are handed in. Must not know: HTTP, storage. Read next: `verbs/writing.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.kinds.catalogue import Kind
from minik8s.apiserver.request.status import Cause, conflict, invalid

Object = dict[str, Any]
SUFFIX_LENGTH = 5
LONGEST_GENERATED = 63 - SUFFIX_LENGTH
OWN_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")
SPARED = ("labels", "annotations", "finalizers", "ownerReferences")
ORPHANS = frozenset({"Job", "ReplicationController"})  # whose dependants stay unless it is said otherwise
BACKGROUND_ORPHANS = {"Orphan": "orphan", "Foreground": "foregroundDeletion"}


def made(kind: Kind, obj: Object, namespace: str, *, uid: str, now: str, suffix: str) -> None:
    """Complete the metadata of an object that is about to be created."""
    meta = obj["metadata"]
    for field in ("resourceVersion", *OWN_FIELDS):
        meta.pop(field, None)
    if not meta.get("name") and isinstance(meta.get("generateName"), str) and meta["generateName"]:
        meta["name"] = meta["generateName"][:LONGEST_GENERATED] + suffix
    if kind.resource.namespaced:
        meta["namespace"] = namespace
    else:
        meta.pop("namespace", None)
    meta["uid"], meta["creationTimestamp"] = uid, now
    _without_empty(meta)
    if kind.counted:
        meta["generation"] = 1


def kept(kind: Kind, old: Object, new: Object, *, sub: str = "") -> None:
    """Carry over into a changed object what its author may not change; count generations of the spec."""
    before, meta = old["metadata"], new["metadata"]
    for field in (*OWN_FIELDS, "namespace"):
        if field in before:
            meta[field] = before[field]
        else:
            meta.pop(field, None)
    meta.pop("managedFields", None)
    _without_empty(meta)
    if sub == "status":
        new["metadata"] = {**before, **{key: meta[key] for key in ("labels", "annotations") if key in meta}}
        for key in ("labels", "annotations"):
            if key in before and key not in meta:
                new["metadata"][key] = before[key]
        for key in [key for key in new if key not in ("apiVersion", "kind", "metadata", "status")]:
            del new[key]
        new.update({key: value for key, value in old.items() if key not in ("metadata", "status")})
        return
    if kind.has_status:
        _restore(new, old, "status")
    if "generation" in before and _spec(new) != _spec(old):
        meta["generation"] = before["generation"] + 1


def _without_empty(meta: Object) -> None:
    """Drop what says nothing: the garbage collector takes away the last owner, and clients look whether there is one."""
    for field in SPARED:
        if not meta.get(field, True):
            del meta[field]


def _restore(new: Object, old: Object, key: str) -> None:
    if key in old:
        new[key] = old[key]
    else:
        new.pop(key, None)


def _spec(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status", "apiVersion", "kind")}


def check_identity(kind: Kind, old: Object, new: Object) -> None:
    """Refuse a change meant for another object: a wrong name, uid or version."""
    plural, group = kind.resource.plural, kind.resource.group
    before, meta = old["metadata"], new["metadata"]
    name = before["name"]
    if meta.get("uid") and meta["uid"] != before["uid"]:
        why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {before['uid']}"
        raise conflict(plural, group, name, why)
    if meta.get("resourceVersion") and meta["resourceVersion"] != before["resourceVersion"]:
        raise conflict(plural, group, name)
    if meta.get("name", name) != name:
        cause = Cause("metadata.name", f"Invalid value: {meta['name']!r}: field is immutable")
        raise invalid(kind.resource.kind, group, name, [cause])


def check_preconditions(kind: Kind, obj: Object, options: Object) -> None:
    """Refuse a deletion meant for another object of the same name."""
    wanted = options.get("preconditions") or {}
    meta = obj["metadata"]
    for field, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if wanted.get(field) and wanted[field] != meta.get(field):
            why = f"Precondition failed: {label} in precondition: {wanted[field]}, {label} in object meta: {meta.get(field)}"
            raise conflict(kind.resource.plural, kind.resource.group, meta["name"], why)


def deleting(kind: Kind, obj: Object, options: Object, now: str, stamp: Any) -> Object | None:
    """What a deletion makes of an object: None when it goes at once, else the object marked and waiting.

    `stamp(now, seconds)` is the time so many seconds later. A pod on a node waits for its kubelet, which deletes
    with grace 0; an object with finalizers waits for those who set them; a namespace for its content.
    """
    meta = obj["metadata"]
    grace = _grace(kind, obj, options)
    finalizers = _finalizers(kind, meta, options)
    if finalizers:
        meta["finalizers"] = finalizers
    else:
        meta.pop("finalizers", None)
    if not finalizers and not grace and not _content(kind, obj):
        return None
    left = meta.get("deletionGracePeriodSeconds")
    if "deletionTimestamp" not in meta or (left is not None and grace < left):
        meta["deletionTimestamp"], meta["deletionGracePeriodSeconds"] = stamp(now, grace), grace
        if kind.own == "Namespace":
            obj.setdefault("status", {})["phase"] = "Terminating"
            meta.pop("deletionGracePeriodSeconds")
        if "generation" in meta:
            meta["generation"] += 1
    return obj


def finished(kind: Kind, obj: Object) -> bool:
    """Whether an object marked for deletion has nothing left to wait for."""
    meta = obj["metadata"]
    return bool(meta.get("deletionTimestamp")) and not meta.get("finalizers") and not meta.get("deletionGracePeriodSeconds") \
        and not _content(kind, obj)


def _content(kind: Kind, obj: Object) -> bool:
    return kind.own == "Namespace" and bool((obj.get("spec") or {}).get("finalizers"))


def _grace(kind: Kind, obj: Object, options: Object) -> int:
    """Seconds to wait for; only pods wait, and only those a kubelet runs."""
    if kind.own != "Pod":
        return 0
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    asked = options.get("gracePeriodSeconds")
    grace = int(asked) if asked is not None else int(spec.get("terminationGracePeriodSeconds") or 0)
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    return max(grace, 1) if grace < 0 else grace


def _finalizers(kind: Kind, meta: Object, options: Object) -> list[str]:
    """The finalizers with those added that the propagation policy asks the garbage collector to serve."""
    found = [name for name in meta.get("finalizers") or []]
    policy = options.get("propagationPolicy") or ("Orphan" if options.get("orphanDependents") else "")
    if not policy and options.get("orphanDependents") is None and not set(found) & set(BACKGROUND_ORPHANS.values()):
        policy = "Orphan" if kind.own in ORPHANS else ""
    wanted = BACKGROUND_ORPHANS.get(policy)
    if policy:
        found = [name for name in found if name not in BACKGROUND_ORPHANS.values() or name == wanted]
    if wanted and wanted not in found:
        found.append(wanted)
    return found
