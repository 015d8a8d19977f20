"""What must hold of volumes, claims, quotas and Secrets.

Pure and total. Must not know: HTTP, storage. Read next: `rules.py`, the table that uses them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from minik8s.apiserver.kinds import causes
from minik8s.apiserver.kinds.defaults_pod import section
from minik8s.apiserver.kinds.rule import Change
from minik8s.apiserver.request.status import Cause
from nodecore.errors import Fault
from nodecore.kube.quantity import parse_quantity

Object = dict[str, Any]
MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
NOT_SOURCES = frozenset({
    "accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy", "storageClassName",
    "volumeAttributesClassName", "volumeMode"})


def modes(obj: Object) -> Iterator[Cause]:
    """How a volume may be mounted."""
    for index, mode in enumerate(section(obj, "spec").get("accessModes") or []):
        yield from causes.one_of(f"spec.accessModes[{index}]", mode, MODES)


def asks_for_storage(obj: Object) -> Iterator[Cause]:
    """A claim is for some bytes."""
    requests = section(section(section(obj, "spec"), "resources"), "requests")
    if requests and not requests.get("storage"):
        yield causes.required("spec.resources.requests[storage]")


def one_source(obj: Object) -> Iterator[Cause]:
    """A volume is in one place."""
    found = _sources(obj)
    if not found:
        yield causes.required("spec", "must specify a volume type")
    for name in sorted(found)[1:]:
        yield causes.forbidden(f"spec.{name}", "may not specify more than 1 volume type")


def _sources(obj: Object) -> Object:
    return {key: value for key, value in section(obj, "spec").items() if key not in NOT_SOURCES and value is not None}


def volume_source(old: Object, new: Object) -> Iterator[Cause]:
    """A volume stays where it is."""
    if _sources(old) != _sources(new):
        yield causes.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation")


def claim_spec(words: str) -> Change:
    """A claim may become larger, and bound once."""
    def check(old: Object, new: Object) -> Iterator[Cause]:
        before, after = dict(section(old, "spec")), dict(section(new, "spec"))
        for key in ("resources", "volumeAttributesClassName", *(() if before.get("volumeName") else ("volumeName",)),
                    *(() if before.get("storageClassName") is not None else ("storageClassName",))):
            before.pop(key, None)
            after.pop(key, None)
        if before != after:
            yield causes.forbidden("spec", words)
        sizes = [_quantity(section(section(section(obj, "spec"), "resources"), "requests").get("storage")) for obj in (old, new)]
        if sizes[1] < sizes[0]:
            yield causes.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity")

    return check


def _quantity(text: Any) -> Any:
    try:
        return parse_quantity(text) if text is not None else 0
    except Fault:
        return 0


SECRETS: dict[str, tuple[tuple[str, ...], ...]] = {  # of each group of keys a Secret of this type has one
    "kubernetes.io/dockercfg": ((".dockercfg",),), "kubernetes.io/dockerconfigjson": ((".dockerconfigjson",),),
    "kubernetes.io/basic-auth": (("username", "password"),), "kubernetes.io/ssh-auth": (("ssh-privatekey",),),
    "kubernetes.io/tls": (("tls.crt",), ("tls.key",)),
}
ACCOUNT = "kubernetes.io/service-account.name"


def keys_of_type(obj: Object) -> Iterator[Cause]:
    """What a Secret of one of Kubernetes' own types has in it."""
    kind, data = str(obj.get("type") or ""), section(obj, "data")
    for keys in SECRETS.get(kind, ()):
        if not any(key in data for key in keys):
            yield from (causes.required(f"data[{key}]") for key in keys)
    if kind.startswith("kubernetes.io/dockerc") and (text := next((data[key] for (key,) in SECRETS[kind] if key in data), None)):
        try:
            json.loads(base64.b64decode(str(text)))
        except ValueError:
            yield causes.wrong(f"data[{SECRETS[kind][0][0]}]", "<secret contents redacted>", "invalid JSON")
    if kind == "kubernetes.io/service-account-token" and not section(section(obj, "metadata"), "annotations").get(ACCOUNT):
        yield causes.required(f"metadata.annotations[{ACCOUNT}]")


def quantities(obj: Object) -> Iterator[Cause]:
    """What a quota allows is not less than nothing."""
    for name, amount in section(section(obj, "spec"), "hard").items():
        if _quantity(amount) < 0:
            yield causes.wrong(f"spec.hard[{name}]", amount, "must be greater than or equal to 0")
