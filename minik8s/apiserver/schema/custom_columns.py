"""The columns of a custom kind: its name, those its definition adds, and its age where it adds none. Pure.

Must not know: HTTP. Read next: `jsonpath.py`, `cells.py`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from minik8s.apiserver.schema.age import since
from minik8s.apiserver.schema.cells import Column, Columns, Object, age_of, name_of
from minik8s.apiserver.schema.jsonpath import Step, find, parse
from nodecore.errors import Invalid


class Printed(NamedTuple):
    """An additional printer column, as a definition words it."""

    name: str
    type: str
    path: str
    priority: int = 0
    format: str = ""
    description: str = ""


def columns_of(printed: Sequence[Printed]) -> Columns:
    """The layout of a custom kind's tables."""
    if not printed:
        return Columns((Column("Name"), Column("Age", "date")), lambda obj, now: [name_of(obj), age_of(obj, now)])
    steps = [(each.type, _steps(each.path)) for each in printed]
    columns = (Column("Name"), *(Column(each.name, each.type, each.priority, each.format, each.description) for each in printed))
    return Columns(columns, lambda obj, now: [name_of(obj), *(_cell(kind, path, obj, now) for kind, path in steps)])


def _steps(path: str) -> tuple[Step, ...] | None:
    try:
        return parse(path)
    except Invalid:
        return None


def _cell(kind: str, path: tuple[Step, ...] | None, obj: Object, now: datetime.datetime) -> Any:
    found = find(path, obj) if path is not None else []
    if not found or found[0] is None:
        return None
    value = found[0]
    if kind == "integer":
        return int(value) if isinstance(value, int | float) else None
    if kind == "number":
        return value if isinstance(value, int | float) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind == "date":
        return since(value, now) if isinstance(value, str) else None
    return ",".join(_text(each) for each in found) if len(found) > 1 else _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
