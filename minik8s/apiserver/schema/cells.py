"""What columns are made of: their definitions, and the cells that many kinds share. Pure.

Must not know: any one kind. Read next: `columns.py`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from minik8s.apiserver.schema.age import since

Object = dict[str, Any]
NONE, UNKNOWN = "<none>", "<unknown>"


class Column(NamedTuple):
    """One column definition."""

    name: str
    type: str = "string"
    priority: int = 0
    format: str = ""
    description: str = ""


class Columns(NamedTuple):
    """A kind's columns and how a row is made."""

    columns: tuple[Column, ...]
    cells: Callable[[Object, datetime.datetime], list[Any]]


def name_of(obj: Object) -> str:
    """An object's name."""
    return str(meta_of(obj).get("name", ""))


def age_of(obj: Object, now: datetime.datetime) -> str:
    """How old it is."""
    return since(meta_of(obj).get("creationTimestamp"), now)


def meta_of(obj: Object) -> Object:
    """Its metadata."""
    return obj.get("metadata") or {}


def label_text(labels: dict[str, str] | None) -> str:
    """A set of labels."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def layout(shown: Iterable[str], wide: Iterable[str] = (), numbers: Iterable[str] = ()) -> tuple[Column, ...]:
    """Column definitions by name: always shown, and only when wide."""
    kinds = dict.fromkeys(numbers, "integer")
    return (*(Column(name, kinds.get(name, "string")) for name in shown), *(Column(name, priority=1) for name in wide))


def part(obj: Object, *path: str) -> Any:
    """What is at the end of a path, None where it breaks off."""
    value: Any = obj
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def simple(shown: str, cells: Callable[[Object], list[Any]], numbers: Iterable[str] = ()) -> Columns:
    """Name, the kind's own cells, age."""
    return Columns(layout(["Name", *shown.split(), "Age"], numbers=numbers),
                   lambda obj, now: [name_of(obj), *cells(obj), age_of(obj, now)])


def template_cells(spec: Object) -> list[Any]:
    """Containers, images and selector of a workload."""
    containers = ((spec.get("template") or {}).get("spec") or {}).get("containers") or []
    names, images = (",".join(item.get(key, "") for item in containers) for key in ("name", "image"))
    return [names, images, selector_text(spec.get("selector") or {})]


def selector_text(selector: Object) -> str:
    """A label selector in one line."""
    words = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for item in selector.get("matchExpressions") or []:
        key, values = item.get("key", ""), ",".join(sorted(item.get("values") or []))
        forms = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}
        words.append(forms.get(item.get("operator", ""), key))
    return ",".join(words) or NONE


def few(words: list[str], *, more: str = " + {} more...", empty: str = NONE) -> str:
    """At most three words, and how many more there are."""
    shown = ",".join(words[:3]) or empty
    return shown + (more.format(len(words) - 3) if len(words) > 3 else "")


WORKLOAD = ("Containers", "Images", "Selector")
DEFAULT = Columns(
    (Column("Name"), Column("Created At", "date")), lambda obj, _: [name_of(obj), meta_of(obj).get("creationTimestamp", "")]
)
