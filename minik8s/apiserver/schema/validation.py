"""Does an object fit its kind? Unknown fields, wrong types, missing required ones, in the words kubectl users know.

`unknown` and `duplicate` count only under fieldValidation=Strict (Warn makes them Warning headers), `type` always rejects
(400), `required` is a 422 with causes. Null counts as absent, but in lists and maps, where `pruning.py` has an answer to
`null`, as it has to an `amount` that the API writes otherwise; `status` owes nothing. Pure.
Must not know: HTTP, defaults, what values mean. Read next: `shapes.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import msgspec

from minik8s.apiserver.schema.shapes import Field, Shape, Shapes
from nodecore.errors import UserError
from nodecore.kube.quantity import canonical, parse_quantity

MOST, MOST_TOLD = 1000, 100
UNKNOWN, DUPLICATE, TYPE, REQUIRED, NULL, AMOUNT = "unknown", "duplicate", "type", "required", "null", "amount"
LENIENT = {("discovery.v1.EndpointSlice", "endpoints"), ("authentication.v1.TokenRequestSpec", "audiences"),
           ("events.v1.Event", "eventTime")}
APART = re.compile(rb'"\s+:')
TIME = re.compile(r"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
BAD_QUANTITY = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
GO_NAMES = {"boolean": "bool", "number": "float64", "bytes": "[]uint8", "time": "time.Time", "quantity": "resource.Quantity",
            "intorstring": "intstr.IntOrString", "any": "interface {}"}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong: of which sort, where, and the sentence about it."""

    kind: str
    field: str
    message: str


def validate(shapes: Shapes, gvk: tuple[str, str, str], obj: dict[str, Any]) -> list[FieldError]:
    """What is wrong with an object, the first MOST things; nothing for a kind that is not known."""
    shape = shapes.of_kind(gvk)
    name = shapes.kinds.get("/".join(gvk), "")
    if shape is None or is_sound(shapes.types, shape, name, obj):
        return []
    return list(islice(problems(shapes, shape, name, obj), MOST))


def problems(shapes: Shapes, shape: Shape, name: str, obj: dict[str, Any]) -> Iterator[FieldError]:
    """Everything that is wrong with an object of this shape, whose type has that name."""
    return _Walk(shapes).object(shape, name, obj, "", "")


def is_sound(types: dict[str, Shape], shape: Shape, name: str, value: dict[str, Any]) -> bool:
    """Whether there is nothing to be said about an object, which goes without a word for nearly all."""
    fields = shape.fields
    for key, inner in value.items():
        field = fields.get(key)
        if field is None:
            if not shape.open_:
                return False
        elif inner is not None and not _holds(types, field, inner):
            return False
    return all(value.get(key) is not None or (name, key) in LENIENT for key in shape.required)


def _holds(types: dict[str, Shape], field: Field, value: Any) -> bool:
    kind = field.type
    if kind == "string":
        return isinstance(value, str)
    shape = types.get(kind)
    if shape is not None:
        return isinstance(value, dict) and is_sound(types, shape, kind, value)
    if kind == "list":
        return isinstance(value, list) and _hold(types, field.item, value)
    if kind == "map":
        return isinstance(value, dict) and _hold(types, field.item, value.values())
    if kind == "quantity":
        return _quantity(value) is None and canonical(str(value)) == value
    return CHECKS.get(kind, _never)(value) is None


def _hold(types: dict[str, Shape], item: Field | None, values: Iterable[Any]) -> bool:
    return all(each is not None and (item is None or _holds(types, item, each)) for each in values)


def duplicates(body: bytes, found: Any = None) -> list[FieldError]:
    """Members that a JSON text names twice in one object; [] for text that is not JSON. `found`: the text, read already."""
    if not APART.search(body) and body.count(b'":') == (_members(body) if found is None else _count(found)):
        return []
    twice: dict[int, list[str]] = {}
    kept: list[dict[str, Any]] = []  # an id is only good while its object lives

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice[id(made)] = [name for name in made if counts[name] > 1]
            kept.append(made)
        return made

    try:
        whole = json.loads(body, object_pairs_hook=collect)
    except ValueError:
        return []
    return [FieldError(DUPLICATE, path, f'duplicate field "{path}"') for path in _doubled(whole, "", twice)] if twice else []


def _members(body: bytes) -> int:
    """How many members the objects of a text have once read; as many as names with a colon are in it if none is there twice."""
    try:
        return _count(msgspec.json.decode(body))
    except (msgspec.DecodeError, RecursionError, ValueError):
        return -1


def _count(found: Any) -> int:
    todo, count = [found], 0
    for value in todo:
        if isinstance(value, dict):
            count += len(value)
            todo.extend(inner for inner in value.values() if type(inner) in (dict, list))
        elif isinstance(value, list):
            todo.extend(inner for inner in value if type(inner) in (dict, list))
    return count


def _doubled(value: Any, path: str, twice: dict[int, list[str]]) -> Iterator[str]:
    if isinstance(value, dict):
        for name in twice.get(id(value), ()):
            yield f"{path}.{name}" if path else name
        for name, inner in value.items():
            yield from _doubled(inner, f"{path}.{name}" if path else name, twice)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _doubled(inner, f"{path}[{at}]", twice)


def refusal(gvk: tuple[str, str, str], errors: list[FieldError], *, strict: bool = True) -> str:
    """The message of a 400 for what cannot be decoded, or an empty string; `required` errors are not its business."""
    _, version, kind = gvk
    wrong = [error.message for error in errors if error.kind == TYPE]
    loose = [error.message for error in errors if error.kind in (UNKNOWN, DUPLICATE)]
    if not wrong and not (strict and loose):
        return ""
    reason = wrong[0] if wrong else "strict decoding error: " + ", ".join(loose[:MOST_TOLD])
    return f'{kind} in version "{version}" cannot be handled as a {kind}: {reason}'


class _Walk:
    """Goes through a value beside its shape. `path` has indexes (for people), `plain` has none (as Go's decoder says it)."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes

    def object(self, shape: Shape, name: str, value: dict[str, Any], path: str, plain: str) -> Iterator[FieldError]:
        struct = name.rpartition(".")[2]
        for key, inner in value.items():
            at = f"{path}.{key}" if path else key
            field = shape.fields.get(key)
            if field is None:
                if not shape.open_:
                    yield FieldError(UNKNOWN, at, f'unknown field "{at}"')
            elif inner is not None:
                place = f"{plain}.{key}" if plain else key
                yield from self.value(field, inner, at, f"{struct}.{place}", place)
        if not path.startswith("status"):
            for key in shape.required:
                if value.get(key) is None and (name, key) not in LENIENT:
                    yield FieldError(REQUIRED, f"{path}.{key}" if path else key, "Required value")

    def value(self, field: Field, value: Any, path: str, where: str, plain: str) -> Iterator[FieldError]:
        if field.type == "list" and isinstance(value, list):
            for at, inner in enumerate(value):
                if inner is None:
                    yield FieldError(NULL, f"{path}[{at}]", "")
                elif field.item:
                    yield from self.value(field.item, inner, f"{path}[{at}]", where, plain)
        elif field.type == "map" and isinstance(value, dict):
            for key, inner in value.items():
                if inner is None:
                    yield FieldError(NULL, f"{path}.{key}", "")
                elif field.item:
                    yield from self.value(field.item, inner, f"{path}.{key}", where, plain)
        elif field.type in self._shapes.types and isinstance(value, dict):
            yield from self.object(self._shapes.types[field.type], field.type, value, path, plain)
        else:
            problem = CHECKS.get(field.type, _never)(value)
            if problem is not None:
                yield FieldError(TYPE, path, problem or _unmarshal(field, value, where))
            elif field.type == "quantity" and canonical(str(value)) != value:
                yield FieldError(AMOUNT, path, "")


def _unmarshal(field: Field, value: Any, where: str) -> str:
    seen = _json_name(value)
    if seen == "number" and field.type in ("int32", "int64"):
        seen = f"number {value}"
    return f"json: cannot unmarshal {seen} into Go struct field {where} of type {_go_name(field)}"


def _json_name(value: Any) -> str:
    names = ((bool, "bool"), (str, "string"), (int | float, "number"), (list, "array"), (dict, "object"))
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def _go_name(field: Field) -> str:
    if field.type in ("list", "map"):
        return ("[]" if field.type == "list" else "map[string]") + (_go_name(field.item) if field.item else "interface {}")
    return GO_NAMES.get(field.type) or ".".join(field.type.split(".")[-2:])


Check = Callable[[Any], str | None]  # None: fits; "": of another JSON type; else what is wrong


def _never(_: Any) -> str | None:
    return ""


def _integer(bits: int) -> Check:
    def check(value: Any) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and -(1 << bits - 1) <= value < 1 << bits - 1
        return None if fits else ""

    return check


def _bytes(value: Any) -> str | None:
    if not isinstance(value, str):
        return ""
    try:
        base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        return "illegal base64 data"
    return None


def _time(value: Any) -> str | None:
    if not isinstance(value, str):
        return ""
    found = TIME.fullmatch(value)
    try:
        if not value or (found and datetime.fromisoformat(found[1] + found[3])):
            return None
    except ValueError:
        return f'parsing time "{value}": out of range'
    return f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse it'


def _quantity(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    try:
        parse_quantity(value)
    except UserError:
        return BAD_QUANTITY
    return BAD_QUANTITY if str(value) != str(value).strip() else None


CHECKS: dict[str, Check] = {
    "string": lambda value: None if isinstance(value, str) else "",
    "boolean": lambda value: None if isinstance(value, bool) else "",
    "number": lambda value: None if isinstance(value, int | float) and not isinstance(value, bool) else "",
    "int32": _integer(32),
    "int64": _integer(64),
    "intorstring": lambda value: None if isinstance(value, str) else _integer(32)(value),
    "bytes": _bytes,
    "time": _time,
    "quantity": _quantity,
    "any": lambda _: None,
}
