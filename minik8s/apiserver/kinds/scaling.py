"""Where a kind keeps its replicas and whom it selects: what a Scale shows of it, and what it sets.

Pure. Must not know: HTTP, storage. Read next: `verbs/subresources.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.kinds.kind import Kind

Object = dict[str, Any]
OPERATORS = {"In": "in", "NotIn": "notin"}
SPEC, STATUS = ("spec", "replicas"), ("status", "replicas")


def replicas(kind: Kind, obj: Object) -> tuple[int, int, str]:
    """Wanted, there, and the selector as text."""
    custom = kind.custom
    if custom is None:
        wanted, there = _at(obj, SPEC), _at(obj, STATUS)
        return _number(wanted), _number(there), selector_text((obj.get("spec") or {}).get("selector") or {})
    return _number(_at(obj, custom.replicas)), _number(_at(obj, custom.status_replicas)), str(_at(obj, custom.selector) or "")


def scaled(kind: Kind, obj: Object, wanted: int) -> Object:
    """The object with that many replicas."""
    *steps, last = kind.custom.replicas if kind.custom else SPEC
    holder = obj
    for step in steps:
        holder = holder.setdefault(step, {})
    holder[last] = wanted
    return obj


def _at(obj: Object, path: tuple[str, ...]) -> Any:
    value: Any = obj if path else None
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def selector_text(selector: Object) -> str:
    """A label selector, or the plain labels of a ReplicationController, as the query string writes it."""
    labels = selector.get("matchLabels") or {}
    if all(isinstance(value, str) for value in selector.values()):
        labels = selector
    terms = [f"{key}={value}" for key, value in sorted(labels.items())]
    for each in selector.get("matchExpressions") or () if labels is not selector else ():
        key, operator = each.get("key", ""), each.get("operator", "")
        if operator in OPERATORS:
            terms.append(f"{key} {OPERATORS[operator]} ({','.join(each.get('values') or [])})")
        else:
            terms.append(key if operator == "Exists" else f"!{key}")
    return ",".join(terms)
