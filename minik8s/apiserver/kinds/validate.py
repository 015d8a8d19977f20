"""Does an object make sense? Names, labels, references inside it, and what may not change; all that is wrong at once.

Shapes and required fields have been looked at already (`schema`). Pure and total over any object of the right shape.
Must not know: HTTP, storage. Read next: `rules.py`, `validate_pod.py`, `validate_service.py`, `causes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from minik8s.apiserver.kinds import causes, rules
from minik8s.apiserver.kinds.catalogue import Kind
from minik8s.apiserver.kinds.defaults_pod import each, section
from minik8s.apiserver.kinds.validate_pod import debug_change, pod, pod_change, pod_template
from minik8s.apiserver.kinds.validate_service import service, service_change
from minik8s.apiserver.request.status import Cause, invalid

Object = dict[str, Any]
ANNOTATIONS_LIMIT = 256 * 1024
DATA_LIMIT = 1024 * 1024
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
NAMES = {"Namespace": causes.label_name, "Service": causes.service_name, "IPAddress": causes.address_name,
         **dict.fromkeys(("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"), causes.path_segment)}


def check_new(kind: Kind, obj: Object) -> None:
    """Refuse an object that does not hold together."""
    _refuse(kind, obj, [*_meta(kind, obj), *_content(kind, obj)])


def check_change(kind: Kind, old: Object, new: Object, *, sub: str = "") -> None:
    """Refuse a change (through a subresource) to something that does not hold together or may not become that."""
    name = f"{kind.own}/{sub}" if f"{kind.own}/{sub}" in CHANGES else kind.own
    change, further = CHANGES.get(name), rules.CHANGES.get(name, ())
    found = [*(change(old, new) if change else ()), *(cause for each_rule in further for cause in each_rule(old, new))]
    _refuse(kind, new, [*_meta(kind, new), *_content(kind, new), *_late_finalizers(old, new), *found])


def _late_finalizers(old: Object, new: Object) -> Iterator[Cause]:
    """Who is on the way out is not held up by anybody who was not there before."""
    before, after = (obj["metadata"].get("finalizers") or [] for obj in (old, new))
    if not old["metadata"].get("deletionTimestamp"):
        return
    known = set(map(str, before))
    if added := [name for name in after if str(name) not in known]:
        words = f"no new finalizers can be added if the object is being deleted, found new finalizers {added}"
        yield causes.forbidden("metadata.finalizers", words)


def _refuse(kind: Kind, obj: Object, found: list[Cause]) -> None:
    if found:
        raise invalid(kind.resource.kind, kind.resource.group, str(obj["metadata"].get("name", "")), found)


def _content(kind: Kind, obj: Object) -> Iterator[Cause]:
    check = CONTENT.get(kind.own)
    if check:
        yield from check(obj)
    for rule in rules.RULES.get(kind.own, ()):
        yield from rule(obj)


def _meta(kind: Kind, obj: Object) -> Iterator[Cause]:
    meta = obj["metadata"]
    name = meta.get("name")
    if not name:
        yield causes.required("metadata.name", "name or generateName is required")
    else:
        yield from NAMES.get(kind.own, causes.subdomain)("metadata.name", name)
    yield from causes.labels("metadata.labels", meta.get("labels"))
    annotations = section(meta, "annotations")
    for key in annotations:
        yield from causes.qualified("metadata.annotations", key.lower())
    if sum(len(key) + len(str(value)) for key, value in annotations.items()) > ANNOTATIONS_LIMIT:
        yield Cause("metadata.annotations", f"Too long: may not be more than {ANNOTATIONS_LIMIT} bytes", "FieldValueTooLong")
    for finalizer in meta.get("finalizers") or []:
        yield from causes.qualified("metadata.finalizers", str(finalizer))
    yield from _owners(each(meta, "ownerReferences"))


def _owners(owners: list[Object]) -> Iterator[Cause]:
    controllers = [owner for owner in owners if owner.get("controller")]
    if len(controllers) > 1:
        yield causes.wrong("metadata.ownerReferences", [owner.get("name") for owner in controllers],
                           "Only one reference can have Controller set to true")
    for index, owner in enumerate(owners):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                yield causes.required(f"metadata.ownerReferences[{index}].{field}")


def _workload(obj: Object) -> Iterator[Cause]:
    spec = section(obj, "spec")
    selector = section(spec, "selector")
    replicas = spec.get("replicas", 1)
    if isinstance(replicas, int) and replicas < 0:
        yield causes.wrong("spec.replicas", replicas, "must be greater than or equal to 0")
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        yield causes.wrong("spec.selector", selector, "empty selector is invalid for deployment")
    yield from causes.labels("spec.selector.matchLabels", selector.get("matchLabels"))
    template = section(spec, "template")
    own = section(section(template, "metadata"), "labels")
    if not all(own.get(key) == value for key, value in section(selector, "matchLabels").items()):
        yield causes.wrong("spec.template.metadata.labels", own, "`selector` does not match template `labels`")
    yield from pod_template("spec.template", template)
    yield from _strategy("spec.strategy", section(spec, "strategy"), ("Recreate", "RollingUpdate"))
    yield from _strategy("spec.updateStrategy", section(spec, "updateStrategy"), ("OnDelete", "RollingUpdate"))


def _strategy(field: str, strategy: Object, known: tuple[str, ...]) -> Iterator[Cause]:
    if not strategy:
        return
    yield from causes.one_of(f"{field}.type", strategy.get("type"), known)
    rolling = section(strategy, "rollingUpdate")
    amounts = {key: str(rolling.get(key, 1)) for key in ("maxUnavailable", "maxSurge")}
    for key, text in amounts.items():
        if not text.removesuffix("%").isdecimal():
            yield causes.wrong(f"{field}.rollingUpdate.{key}", rolling[key], "must be a non-negative integer or a percentage")
    if rolling and all(text.removesuffix("%").strip("0") == "" for text in amounts.values()):
        yield causes.wrong(f"{field}.rollingUpdate.maxUnavailable", rolling.get("maxUnavailable"),
                           "may not be 0 when `maxSurge` is 0")


def _data(obj: Object) -> Iterator[Cause]:
    size = 0
    for part in ("data", "binaryData"):
        for key, value in section(obj, part).items():
            size += len(str(value))
            if key in (".", "..") or len(key) > 253 or not causes.CONFIG_KEY.fullmatch(key):
                yield causes.wrong(f"{part}[{key}]", key, "a valid config key must consist of alphanumeric characters, '-', '_' "
                                                          f"or '.' (regex used for validation is '{causes.CONFIG_KEY.pattern}')")
    if size > DATA_LIMIT * (4 / 3 if obj.get("kind") == "Secret" else 1):
        yield Cause("", f"Too long: may not be more than {DATA_LIMIT} bytes", "FieldValueTooLong")


def _slice(obj: Object) -> Iterator[Cause]:
    family = obj.get("addressType")
    yield from causes.one_of("addressType", family, ("FQDN", "IPv4", "IPv6"))
    found = each(obj, "endpoints")
    if len(found) > 1000:
        yield Cause("endpoints", f"Too many: {len(found)}: must have at most 1000 items", "FieldValueTooMany")
    for index, endpoint in enumerate(found):
        for address in endpoint.get("addresses") or []:
            yield from _address(f"endpoints[{index}].addresses", address, family)
            if not _is_ours(obj):
                yield from causes.everybodys(f"endpoints[{index}].addresses", address)


def _is_ours(obj: Object) -> bool:
    """Whether it leads to API servers, which may be told to advertise loopback."""
    return (obj["metadata"].get("namespace"), obj["metadata"].get("name")) == ("default", "kubernetes")


def _address(field: str, value: Any, family: Any = "") -> Iterator[Cause]:
    if family == "FQDN":
        return
    version = 0
    with suppress(ValueError):
        version += ip_address(str(value)).version
    if not version or family == f"IPv{10 - version}":
        yield causes.wrong(field, value, "must be a valid IP address" + (f" of {family}" if version else ""))


def _endpoints(obj: Object) -> Iterator[Cause]:
    for index, subset in enumerate(each(obj, "subsets")):
        for part in ("addresses", "notReadyAddresses"):
            for address in each(subset, part):
                yield from _address(f"subsets[{index}].{part}.ip", address.get("ip"))
                if not _is_ours(obj):
                    yield from causes.everybodys(f"subsets[{index}].{part}.ip", address.get("ip"))
        for entry in each(subset, "ports"):
            yield from causes.port(f"subsets[{index}].ports.port", entry.get("port"))


def _node(obj: Object) -> Iterator[Cause]:
    for index, taint in enumerate(each(section(obj, "spec"), "taints")):
        yield from causes.qualified(f"spec.taints[{index}].key", str(taint.get("key", "")))
        yield from causes.one_of(f"spec.taints[{index}].effect", taint.get("effect"), EFFECTS)


def _event(obj: Object) -> Iterator[Cause]:
    about = section(obj, "involvedObject").get("namespace", "")
    if about and about != obj["metadata"].get("namespace"):
        yield causes.wrong("involvedObject.namespace", about, "does not match event.namespace")


def _lease(obj: Object) -> Iterator[Cause]:
    seconds = section(obj, "spec").get("leaseDurationSeconds")
    if isinstance(seconds, int) and seconds <= 0:
        yield causes.wrong("spec.leaseDurationSeconds", seconds, "must be greater than 0")


def _same(*path: str) -> Callable[[Object, Object], Iterator[Cause]]:
    def compare(old: Object, new: Object) -> Iterator[Cause]:
        before: Any = old
        after: Any = new
        for step in path:
            before, after = (before or {}).get(step), (after or {}).get(step)
        if before and before != after:
            yield causes.immutable(".".join(path), after)

    return compare


def _frozen(old: Object, new: Object) -> Iterator[Cause]:
    """An immutable ConfigMap or Secret, and the type of a Secret."""
    if old.get("immutable"):
        for field in ("data", "binaryData"):
            if old.get(field) != new.get(field):
                yield causes.forbidden(field, "field is immutable when `immutable` is set")
        if not new.get("immutable"):
            yield causes.forbidden("immutable", "field is immutable when `immutable` is set")
    if old.get("type") != new.get("type"):
        yield causes.immutable("type", new.get("type"))


CONTENT: dict[str, Callable[[Object], Iterator[Cause]]] = {
    "Pod": pod, "Service": service, "Deployment": _workload, "ReplicaSet": _workload, "DaemonSet": _workload,
    "ConfigMap": _data, "Secret": _data, "EndpointSlice": _slice, "Endpoints": _endpoints, "Node": _node, "Event": _event,
    "Lease": _lease,
}
CHANGES: dict[str, Callable[[Object, Object], Iterator[Cause]]] = {
    "Pod": pod_change, "Pod/ephemeralcontainers": debug_change, "Service": service_change,
    **dict.fromkeys(("Deployment", "ReplicaSet", "DaemonSet"), _same("spec", "selector")), "ConfigMap": _frozen,
    "Secret": _frozen, "EndpointSlice": _same("addressType"), "ControllerRevision": _same("data"),
    "Node": _same("spec", "podCIDR"),
}
