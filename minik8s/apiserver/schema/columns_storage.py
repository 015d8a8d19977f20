"""The columns of volumes, claims, classes, quotas. Pure.

Must not know: HTTP. Read next: `cells.py`.
"""

from __future__ import annotations

import datetime
from typing import Any

from minik8s.apiserver.schema.cells import NONE, Columns, Object, age_of, layout, meta_of, name_of, part, simple

MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
UNSET = "<unset>"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def _modes(modes: list[str] | None) -> str:
    present = set(modes or ())
    return ",".join(short for mode, short in MODES.items() if mode in present)


def _phase(obj: Object) -> str:
    return "Terminating" if meta_of(obj).get("deletionTimestamp") else part(obj, "status", "phase") or ""


def _volume(obj: Object, now: datetime.datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    claim = spec.get("claimRef") or {}
    owner = f"{claim.get('namespace')}/{claim.get('name')}" if claim else ""
    return [
        name_of(obj), part(spec, "capacity", "storage") or "", _modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""), _phase(obj), owner,
        spec.get("storageClassName", ""), spec.get("volumeAttributesClassName") or UNSET, part(obj, "status", "reason") or "",
        age_of(obj, now), spec.get("volumeMode") or UNSET,
    ]


def _claim(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    bound = bool(spec.get("volumeName"))
    return [
        name_of(obj), _phase(obj), spec.get("volumeName", ""), (part(status, "capacity", "storage") or "") if bound else "",
        _modes(status.get("accessModes")) if bound else "", spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or UNSET, age_of(obj, now), spec.get("volumeMode") or UNSET,
    ]


def _storage_class(obj: Object, now: datetime.datetime) -> list[Any]:
    default = (meta_of(obj).get("annotations") or {}).get(DEFAULT_CLASS) == "true"
    return [
        name_of(obj) + (" (default)" if default else ""), obj.get("provisioner", ""), obj.get("reclaimPolicy") or "Delete",
        obj.get("volumeBindingMode") or "Immediate", bool(obj.get("allowVolumeExpansion")), age_of(obj, now),
    ]


def _driver(obj: Object) -> list[Any]:
    spec = obj.get("spec") or {}
    audiences = [str(token.get("audience", "")) for token in spec.get("tokenRequests") or []]
    return [spec.get("attachRequired", True), bool(spec.get("podInfoOnMount")), bool(spec.get("storageCapacity")),
            ",".join(audiences) or UNSET, bool(spec.get("requiresRepublish")),
            ",".join(spec.get("volumeLifecycleModes") or []) or NONE]


def _quota(obj: Object, now: datetime.datetime) -> list[Any]:
    hard, used = part(obj, "status", "hard") or part(obj, "spec", "hard") or {}, part(obj, "status", "used") or {}
    shown = {key: f"{key}: {used.get(key, '0')}/{hard[key]}" for key in sorted(hard)}
    limits = [text for key, text in shown.items() if key.startswith("limits")]
    return [name_of(obj), ", ".join(text for key, text in shown.items() if not key.startswith("limits")), ", ".join(limits),
            age_of(obj, now)]


def _attachment(obj: Object) -> list[Any]:
    spec = obj.get("spec") or {}
    return [spec.get("attacher", ""), part(spec, "source", "persistentVolumeName") or "", spec.get("nodeName", ""),
            bool(part(obj, "status", "attached"))]


KINDS: dict[str, Columns] = {
    "PersistentVolume": Columns(layout(
        ("Name", "Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass", "VolumeAttributesClass",
         "Reason", "Age"), ("VolumeMode",)), _volume),
    "PersistentVolumeClaim": Columns(layout(
        ("Name", "Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass", "Age"),
        ("VolumeMode",)), _claim),
    "StorageClass": Columns(layout(
        ("Name", "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age")), _storage_class),
    "CSIDriver": simple("AttachRequired PodInfoOnMount StorageCapacity TokenRequests RequiresRepublish Modes", _driver),
    "CSINode": simple("Drivers", lambda obj: [len(part(obj, "spec", "drivers") or ())], ("Drivers",)),
    "CSIStorageCapacity": Columns(
        layout(("Name", "StorageClassName", "Capacity")),
        lambda obj, _: [name_of(obj), obj.get("storageClassName", ""), obj.get("capacity") or UNSET]),
    "VolumeAttachment": simple("Attacher PV Node Attached", _attachment),
    "ResourceQuota": Columns(layout(("Name", "Request", "Limit", "Age")), _quota),
}
