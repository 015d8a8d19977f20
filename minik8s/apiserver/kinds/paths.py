"""Paths into objects, for tables of rules: `spec.ports[].protocol`, `spec.strategy+.type`.

`[]` stands for every item of a list; `+` makes the object where there is none. Pure and total: what has the wrong shape
is passed over. Must not know: kinds. Read next: `defaults_table.py`, `rules.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]


def holders(obj: Object, path: str) -> Iterator[tuple[Object, str, str]]:
    """Each object that has (or should have) the last field of a path, that field's name, and where it is in words."""
    *steps, last = path.split(".")
    yield from _walk(obj, steps, last, "")


def _walk(value: Any, steps: list[str], last: str, where: str) -> Iterator[tuple[Object, str, str]]:
    if not isinstance(value, dict):
        return
    if not steps:
        yield value, last, f"{where}{last}"
        return
    step, rest = steps[0], steps[1:]
    name = step.rstrip("[]+")
    if step.endswith("+") and value.get(name) is None:
        value[name] = {}
    inner = value.get(name)
    if step.endswith("[]"):
        for index, item in enumerate(inner if isinstance(inner, list) else ()):
            yield from _walk(item, rest, last, f"{where}{name}[{index}].")
    else:
        yield from _walk(inner, rest, last, f"{where}{name}.")
