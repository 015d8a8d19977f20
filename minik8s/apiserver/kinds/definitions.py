"""A CustomResourceDefinition read: the kinds it adds, the names it may have, the conditions it is in.

Pure. Must not know: HTTP, storage. Read next: `definition_rules.py`, `verbs/definitions.py`, which acts on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from minik8s.apiserver.kinds.custom import Custom
from minik8s.apiserver.kinds.defaults_pod import each, section
from minik8s.apiserver.kinds.discovery import rank
from minik8s.apiserver.kinds.kind import SCALE, STATUS, Kind
from minik8s.apiserver.schema.custom_columns import Printed, columns_of
from nodecore.kube.resource import Resource

Object = dict[str, Any]
NO_CONFLICTS = ("NamesAccepted", "True", "NoConflicts", "no conflicts found")
ESTABLISHED = ("Established", "True", "InitialNamesAccepted", "the initial names have been accepted")
TERMINATING = ("Terminating", "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress")


def is_(obj: Object, condition: str) -> bool:
    """Whether a condition is true."""
    conditions = each(section(obj, "status"), "conditions")
    return any(item.get("type") == condition and item.get("status") == "True" for item in conditions)


def kinds_of(obj: Object) -> tuple[Kind, ...]:
    """The kinds a definition adds, a served version each; those that are not its storage version are shown from that."""
    spec = obj["spec"]
    storage = next(version for version in spec["versions"] if version.get("storage"))
    kept = _kind(spec, storage, None)
    served = [version for version in spec["versions"] if version.get("served")]
    return tuple(kept if version is storage else _kind(spec, version, kept) for version in served)


def storage_of(obj: Object) -> Kind:
    """The kind a definition's objects are stored as, be it served or not."""
    return _kind(obj["spec"], next(version for version in obj["spec"]["versions"] if version.get("storage")), None)


def _kind(spec: Object, version: Object, kept: Kind | None) -> Kind:
    names = spec["names"]
    resource = Resource(spec["group"], version["name"], names["plural"], names["kind"], namespaced=spec["scope"] == "Namespaced")
    subs = section(version, "subresources")
    known = [sub for name, sub in (("scale", SCALE), ("status", STATUS)) if subs.get(name) is not None]
    fields = tuple(str(field.get("jsonPath", "")).removeprefix(".") for field in each(version, "selectableFields"))
    short, categories = (tuple(names.get(key) or ()) for key in ("shortNames", "categories"))
    prefix = f"/registry/{spec['group']}/{names['plural']}/"
    return Kind(resource, names["singular"], prefix, short, categories, tuple(known), fields, counted=True, kept=kept,
                custom=_custom(version), warning=_deprecation(spec, version))


def _deprecation(spec: Object, version: Object) -> str:
    if not version.get("deprecated"):
        return ""
    if version.get("deprecationWarning"):
        return str(version["deprecationWarning"])
    better = [other["name"] for other in spec["versions"] if other.get("served") and not other.get("deprecated")
              and rank(other["name"]) > rank(version["name"])]
    group, kind = spec["group"], spec["names"]["kind"]
    instead = f"; use {group}/{max(better, key=rank)} {kind}" if better else ""
    return f"{group}/{version['name']} {kind} is deprecated{instead}"


def _custom(version: Object) -> Custom:
    printed = [
        Printed(column["name"], column["type"], column["jsonPath"], column.get("priority") or 0, column.get("format") or "",
                column.get("description") or "") for column in each(version, "additionalPrinterColumns")]
    scale = section(section(version, "subresources"), "scale")
    paths = (_steps(scale.get(name)) for name in ("specReplicasPath", "statusReplicasPath", "labelSelectorPath"))
    return Custom(version, section(section(version, "schema"), "openAPIV3Schema"), columns_of(printed), *paths)


def _steps(path: Any) -> tuple[str, ...]:
    return tuple(str(path or "").removeprefix(".").split(".")) if path else ()


def names_taken(obj: Object, others: Iterable[Object]) -> str:
    """Why a definition may not have its names: one of its group has them; empty if it may."""
    spec, taken = obj["spec"], dict[str, str]()
    kinds = dict[str, str]()
    for other in others:
        accepted, name = section(section(other, "status"), "acceptedNames"), other["metadata"]["name"]
        if name != obj["metadata"]["name"] and other["spec"]["group"] == spec["group"] and is_(other, "NamesAccepted"):
            taken.update(dict.fromkeys(_resource_names(accepted), name))
            kinds.update(dict.fromkeys(_kind_names(accepted), name))
    for names, known in ((_resource_names(spec["names"]), taken), (_kind_names(spec["names"]), kinds)):
        for name in names:
            if name in known:
                return f'"{name}" is already in use'
    return ""


def _resource_names(names: Object) -> Iterator[str]:
    yield from filter(None, (names.get("plural"), names.get("singular"), *(names.get("shortNames") or ())))


def _kind_names(names: Object) -> Iterator[str]:
    yield from filter(None, (names.get("kind"), names.get("listKind")))


def settle(obj: Object, conflict: str, now: str) -> Object:
    """The status a definition should have: names accepted or not, established once they are."""
    status = dict(section(obj, "status"))
    conditions = [dict(item) for item in each(status, "conditions")]
    if conflict:
        _set(conditions, ("NamesAccepted", "False", "NameConflict", conflict), now)
        if not is_(obj, "Established"):
            _set(conditions, ("Established", "False", "NotAccepted", "not all names are accepted"), now)
        status.setdefault("acceptedNames", {"plural": "", "kind": ""})
    else:
        _set(conditions, NO_CONFLICTS, now)
        _set(conditions, ESTABLISHED, now)
        status["acceptedNames"] = dict(obj["spec"]["names"])
    if section(obj, "metadata").get("deletionTimestamp"):
        _set(conditions, TERMINATING, now)
    status["conditions"] = conditions
    storage = next(version["name"] for version in obj["spec"]["versions"] if version.get("storage"))
    status["storedVersions"] = list(dict.fromkeys([*(status.get("storedVersions") or []), storage]))
    return {**obj, "status": status}


def _set(conditions: list[Object], wanted: tuple[str, str, str, str], now: str) -> None:
    kind, state, reason, message = wanted
    found = next((item for item in conditions if item.get("type") == kind), None)
    if found is None:
        found = {"type": kind}
        conditions.append(found)
    if found.get("status") != state:
        found["lastTransitionTime"] = now
    found.update(status=state, reason=reason, message=message)
