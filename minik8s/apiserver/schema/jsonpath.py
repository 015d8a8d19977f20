"""JSONPath as printer columns and selectable fields use it: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.

    find(parse(".spec.list[*].name"), obj)     every value there

Understood: fields (also `['name']` and `\\.`), indexes, `[*]`, `.*`, filters with == and !=. Invalid for the rest.
Pure. Must not know: what the values are for. Read next: `custom_columns.py`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from nodecore.errors import Invalid

STEP = re.compile(
    r"\.(?P<field>(?:[\w-]|\\.)+)"
    r"|\[(?P<quote>['\"])(?P<quoted>.*?)(?P=quote)\]"
    r"|\[(?P<index>-?\d{1,6})\]"
    r"|(?P<all>\[\*\]|\.\*)"
    r"|\[\?\(\s*@(?P<left>(?:\.(?:[\w-]|\\.)+)+)\s*(?P<sign>==|!=)\s*(?P<mark>['\"]?)(?P<right>[^'\"\]]*?)(?P=mark)\s*\)\]")


class Step(NamedTuple):
    """One step of a path: a field, an index, everything (`*`), or a filter."""

    kind: str
    name: str = ""
    number: int = 0
    path: tuple[str, ...] = ()
    equal: bool = True


def parse(text: str) -> tuple[Step, ...]:
    """Read a path."""
    at, found = 0, list[Step]()
    inner = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    inner = inner.removeprefix("$")
    while at < len(inner):
        match = STEP.match(inner, at)
        if not match:
            raise Invalid(f"{text[:100]!r} is not a JSONPath this server understands, from {inner[at:at + 40]!r} on")
        found.append(_step(match))
        at = match.end()
    return tuple(found)


def _step(match: re.Match[str]) -> Step:
    if match["field"]:
        return Step("field", re.sub(r"\\(.)", r"\1", match["field"]))
    if match["quote"]:
        return Step("field", re.sub(r"\\(.)", r"\1", match["quoted"]))
    if match["index"]:
        return Step("index", number=int(match["index"]))
    if match["all"]:
        return Step("all")
    path = tuple(re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"\.((?:[\w-]|\\.)+)", match["left"]))
    return Step("filter", match["right"], path=path, equal=match["sign"] == "==")


def find(steps: tuple[Step, ...], value: Any) -> list[Any]:
    """Every value at a path."""
    found = [value]
    for step in steps:
        found = [inner for item in found for inner in _inside(step, item)]
    return found


def _inside(step: Step, value: Any) -> list[Any]:
    if step.kind == "field":
        return [value[step.name]] if isinstance(value, dict) and step.name in value else []
    if step.kind == "all":
        return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
    if not isinstance(value, list):
        return []
    if step.kind == "index":
        return [value[step.number]] if -len(value) <= step.number < len(value) else []
    return [item for item in value if _matches(step, item)]


def _matches(step: Step, item: Any) -> bool:
    for name in step.path:
        if not isinstance(item, dict) or name not in item:
            return False
        item = item[name]
    text = str(item).lower() if isinstance(item, bool) else str(item)
    return (text == step.name) == step.equal
