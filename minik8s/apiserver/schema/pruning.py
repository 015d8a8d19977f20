"""Takes out of an object what its kind does not know, as the original's decoder does unless it is told to be strict, and
puts zero values in the place of nulls in lists and maps, and amounts in the one way of writing them, as it does always. Pure.

Must not know: HTTP, what is reported of it. Read next: `validation.py`, which reports.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from minik8s.apiserver.schema.shapes import Field, Shape, Shapes
from nodecore.errors import UserError
from nodecore.kube.quantity import canonical

Object = dict[str, Any]
ZEROS: dict[str, Any] = {"string": "", "bytes": "", "time": "", "quantity": "0", "intorstring": 0, "int32": 0, "int64": 0,
                         "number": 0, "boolean": False, "any": None}


def prune(shapes: Shapes, gvk: tuple[str, str, str], obj: Object) -> None:
    """Drop unknown fields, wherever they are; a kind that is not in the tables keeps all."""
    shape = shapes.of_kind(gvk)
    if shape is not None:
        _object(shapes, shape, obj)


def _object(shapes: Shapes, shape: Shape, obj: Object) -> None:
    for name in [name for name in obj if name not in shape.fields] if not shape.open_ else ():
        del obj[name]
    for name, value in obj.items():
        field = shape.fields.get(name)
        if field is not None and isinstance(value, dict | list):
            _value(shapes, field, value)


def _value(shapes: Shapes, field: Field, value: Any) -> None:
    if field.type in ("list", "map"):
        items = value if isinstance(value, list) else value.values()
        for item in items if field.item is not None else ():
            if isinstance(item, dict | list) and field.item is not None:
                _value(shapes, field.item, item)
    elif isinstance(value, dict) and (shape := shapes.types.get(field.type)) is not None:
        _object(shapes, shape, value)


def settle(shapes: Shapes, gvk: tuple[str, str, str], obj: Object) -> None:
    """Let no list and no map hold a null, and every amount be written as the API writes it."""
    shape = shapes.of_kind(gvk)
    if shape is not None:
        _settle_object(shapes, shape, obj)


def _settle_object(shapes: Shapes, shape: Shape, obj: Object) -> None:
    for name, value in obj.items():
        field = shape.fields.get(name)
        if field is not None and value is not None:
            obj[name] = _settled(shapes, field, value)


def _settled(shapes: Shapes, field: Field, value: Any) -> Any:
    if field.type == "quantity":
        with suppress(UserError):
            return canonical(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else value
    elif field.type in ("list", "map") and field.item is not None and isinstance(value, dict | list):
        for at, item in list(enumerate(value)) if isinstance(value, list) else list(value.items()):
            value[at] = _zero(field.item) if item is None else _settled(shapes, field.item, item)
    elif isinstance(value, dict) and (shape := shapes.types.get(field.type)) is not None:
        _settle_object(shapes, shape, value)
    return value


def _zero(field: Field) -> Any:
    return ZEROS.get(field.type, [] if field.type == "list" else {})
