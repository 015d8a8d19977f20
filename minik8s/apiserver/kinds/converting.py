"""One stored object, shown in several versions: events.k8s.io beside core Events, autoscaling v1 beside v2, custom versions.

    shown(kind, obj)     what is stored -> as the kind's own version says it
    stored(kind, obj)    the reverse; nothing is lost on the way there and back

What v1 of an autoscaler cannot say is kept in its annotations. Custom versions differ in their name alone.
Pure; both may alter their argument. Must not know: HTTP, storage. Read next: `kind.py`, `catalogue.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from minik8s.apiserver.kinds.kind import Kind
from minik8s.apiserver.request.status import bad_request

Object = dict[str, Any]
EVENT_NAMES = {
    "involvedObject": "regarding", "message": "note", "source": "deprecatedSource", "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp", "count": "deprecatedCount", "reportingComponent": "reportingController",
}
NOTES = "autoscaling.alpha.kubernetes.io/"
CPU = "targetCPUUtilizationPercentage"


def shown(kind: Kind, obj: Object) -> Object:
    """A stored object in the kind's own version."""
    return _turned(kind, obj, 0, kind)


def stored(kind: Kind, obj: Object) -> Object:
    """An object of the kind as it is stored."""
    return _turned(kind, obj, 1, kind.stored)


def _turned(kind: Kind, obj: Object, way: int, target: Kind) -> Object:
    if kind.kept is None and not kind.custom:
        return obj
    ways = WAYS.get(kind.gvk)
    made = ways[way](obj) if ways else obj
    return {**made, "apiVersion": target.resource.api_version}


def _renamed(obj: Object, names: dict[str, str]) -> Object:
    return {names.get(key, key): value for key, value in obj.items()}


def _event_shown(obj: Object) -> Object:
    return _renamed(obj, EVENT_NAMES)


def _event_stored(obj: Object) -> Object:
    return _renamed(obj, {new: old for old, new in EVENT_NAMES.items()})


def _is_cpu(metric: Object) -> bool:
    resource = metric.get("resource") or {}
    return metric.get("type") == "Resource" and resource.get("name") == "cpu" and \
        isinstance((resource.get("target") or {}).get("averageUtilization"), int)


def _autoscaler_shown(obj: Object) -> Object:
    spec, status, meta = dict(obj.get("spec") or {}), dict(obj.get("status") or {}), dict(obj["metadata"])
    notes: Object = {}
    metrics = spec.pop("metrics", None) or []
    cpu = next((metric for metric in metrics if _is_cpu(metric)), None)
    if cpu:
        spec[CPU] = cpu["resource"]["target"]["averageUtilization"]
    if rest := [metric for metric in metrics if metric is not cpu]:
        notes["metrics"] = rest
    if behavior := spec.pop("behavior", None):
        notes["behavior"] = behavior
    for field, name in (("conditions", "conditions"), ("currentMetrics", "current-metrics")):
        if value := status.pop(field, None):
            notes[name] = value
    if current := _current_cpu(notes.get("current-metrics") or []):
        status["currentCPUUtilizationPercentage"] = current
    if notes:
        encoded = {NOTES + name: json.dumps(value, separators=(",", ":")) for name, value in notes.items()}
        meta["annotations"] = {**(meta.get("annotations") or {}), **encoded}
    return {**obj, "metadata": meta, "spec": spec, "status": status}


def _current_cpu(metrics: list[Object]) -> int:
    found = (((metric.get("resource") or {}).get("current") or {}).get("averageUtilization") for metric in metrics
             if (metric.get("resource") or {}).get("name") == "cpu")
    return next((each for each in found if isinstance(each, int)), 0)


def _autoscaler_stored(obj: Object) -> Object:
    spec, status, meta = dict(obj.get("spec") or {}), dict(obj.get("status") or {}), dict(obj["metadata"])
    notes = _notes(meta)
    metrics = notes.get("metrics") or []
    percent = spec.pop(CPU, None)
    if percent is not None:
        target = {"type": "Utilization", "averageUtilization": percent}
        metrics = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}, *metrics]
    if metrics:
        spec["metrics"] = metrics
    if notes.get("behavior"):
        spec["behavior"] = notes["behavior"]
    status.pop("currentCPUUtilizationPercentage", None)
    for field, name in (("conditions", "conditions"), ("currentMetrics", "current-metrics")):
        if notes.get(name):
            status[field] = notes[name]
    made = {**obj, "metadata": meta, "spec": spec}
    return {**made, "status": status} if status or "status" in obj else made


def _notes(meta: Object) -> Object:
    """What the annotations hold for us, taken out of them."""
    annotations = dict(meta.get("annotations") or {})
    found: Object = {}
    for name in ("metrics", "behavior", "conditions", "current-metrics"):
        text = annotations.pop(NOTES + name, None)
        if text is None:
            continue
        try:
            found[name] = json.loads(text)
        except ValueError:
            raise bad_request(f"metadata.annotations[{NOTES}{name}] is not JSON") from None
        if not isinstance(found[name], dict if name == "behavior" else list):
            raise bad_request(f"metadata.annotations[{NOTES}{name}] is not of the form it should be")
    if annotations:
        meta["annotations"] = annotations
    else:
        meta.pop("annotations", None)
    return found


WAYS: dict[tuple[str, str, str], tuple[Callable[[Object], Object], Callable[[Object], Object]]] = {
    ("events.k8s.io", "v1", "Event"): (_event_shown, _event_stored),
    ("autoscaling", "v1", "HorizontalPodAutoscaler"): (_autoscaler_shown, _autoscaler_stored),
}
