"""Custom objects beside the schema of their definition: defaults filled in, values checked, in the words of the original.

    default(schema, obj)          in place
    validate(schema, obj)         every wrong value, by its path

What a schema may say is checked when its definition is written (`definition_rules.py`); here it is taken as sound.
Pure and total. Must not know: HTTP, storage. Read next: `formats.py`, `custom_fitting.py`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from minik8s.apiserver.kinds import causes
from minik8s.apiserver.kinds.formats import FORMATS
from minik8s.apiserver.kinds.regular import Expression
from minik8s.apiserver.request.status import Cause

Object = dict[str, Any]
INT_OR_STRING, PRESERVE = "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"
TYPES: dict[str, tuple[type, ...]] = {"object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,),
                                      "integer": (int,), "number": (int, float)}


def default(schema: Object, value: Any) -> None:
    """Fill in what the schema says of missing fields, all the way down."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for name, inner in properties.items():
            if "default" in inner and (name not in value or (value[name] is None and not inner.get("nullable"))):
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                default(inner, value[name])
        more = schema.get("additionalProperties")
        if isinstance(more, dict):
            for name, item in value.items():
                if name not in properties:
                    default(more, item)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            default(schema["items"], item)


def validate(schema: Object, value: Any, path: str = "") -> Iterator[Cause]:
    """All that is wrong with a value."""
    if value is None and (schema.get("nullable") or not path):
        return
    if schema.get(INT_OR_STRING):
        if isinstance(value, bool) or not isinstance(value, int | str):
            yield _body(path, value, f"must be of type integer or string: {json.dumps(_kind(value))}")
            return
    elif "type" in schema and not _is(schema["type"], value):
        yield _body(path, _kind(value), f"must be of type {schema['type']}: {json.dumps(_kind(value))}")
        return
    yield from _choice(schema, value, path)
    if isinstance(value, str):
        yield from _text(schema, value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number(schema, value, path)
    elif isinstance(value, list):
        yield from _list(schema, value, path)
    elif isinstance(value, dict):
        yield from _object(schema, value, path)
    yield from _junctors(schema, value, path)


def _is(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES.get(kind, (object,)))


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return next((name for name in ("boolean", "integer", "number", "string", "array", "object") if _is(name, value)), "null")


def _body(path: str, value: Any, why: str) -> Cause:
    return causes.wrong(path or "<nil>", value, f"{path} in body {why}".strip())


def _choice(schema: Object, value: Any, path: str) -> Iterator[Cause]:
    known = schema.get("enum")
    if known and value not in known:
        words = ", ".join(json.dumps(each) for each in known)
        yield Cause(path, f"Unsupported value: {json.dumps(value)}: supported values: {words}", "FieldValueNotSupported")


def _text(schema: Object, value: str, path: str) -> Iterator[Cause]:
    most, least, pattern = schema.get("maxLength"), schema.get("minLength"), schema.get("pattern")
    if most is not None and len(value) > most:
        yield Cause(path, f"Too long: may not be more than {most} bytes", "FieldValueTooLong")
    if least is not None and len(value) < least:
        yield _body(path, value, f"should be at least {least} chars long")
    if pattern and not _compiled(pattern).found(value):
        yield _body(path, value, f"should match '{pattern}'")
    form = schema.get("format", "")
    if form in FORMATS and not FORMATS[form](value):
        yield _body(path, value, f"must be of type {form}: {json.dumps(value)}")


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Expression:
    return Expression(pattern)


def _number(schema: Object, value: float, path: str) -> Iterator[Cause]:
    most, least, step = schema.get("maximum"), schema.get("minimum"), schema.get("multipleOf")
    if most is not None and (value > most or (schema.get("exclusiveMaximum") and value == most)):
        yield _body(path, value, f"should be less than{'' if schema.get('exclusiveMaximum') else ' or equal to'} {most}")
    if least is not None and (value < least or (schema.get("exclusiveMinimum") and value == least)):
        yield _body(path, value, f"should be greater than{'' if schema.get('exclusiveMinimum') else ' or equal to'} {least}")
    if step and value % step:
        yield _body(path, value, f"should be a multiple of {step}")
    form = schema.get("format")
    if form in ("int32", "int64") and not -(1 << int(form[3:]) - 1) <= value < 1 << int(form[3:]) - 1:
        yield _body(path, value, f"must be of type {form}: {json.dumps(value)}")


def _list(schema: Object, value: list[Any], path: str) -> Iterator[Cause]:
    most, least = schema.get("maxItems"), schema.get("minItems")
    if most is not None and len(value) > most:
        yield Cause(path, f"Too many: {len(value)}: must have at most {most} items", "FieldValueTooMany")
    if least is not None and len(value) < least:
        yield _body(path, value, f"should have at least {least} items")
    inner = schema.get("items")
    if isinstance(inner, dict):
        for index, item in enumerate(value):
            yield from validate(inner, item, f"{path}[{index}]")
    yield from _unique(schema, value, path)


def _unique(schema: Object, value: list[Any], path: str) -> Iterator[Cause]:
    """Sets have no item twice, maps no key."""
    form, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys") or []
    if form not in ("set", "map"):
        return
    seen: set[str] = set()
    for index, item in enumerate(value):
        known = {key: item.get(key) for key in keys if key in item} if form == "map" and isinstance(item, dict) else item
        text = json.dumps(known, sort_keys=True)
        if text in seen:
            yield causes.duplicate(f"{path}[{index}]", known)
        seen.add(text)


def _object(schema: Object, value: Object, path: str) -> Iterator[Cause]:
    properties, more = schema.get("properties") or {}, schema.get("additionalProperties")
    most, least = schema.get("maxProperties"), schema.get("minProperties")
    if most is not None and len(value) > most:
        yield Cause(path, f"Too many: {len(value)}: must have at most {most} items", "FieldValueTooMany")
    if least is not None and len(value) < least:
        yield _body(path, value, f"should have at least {least} properties")
    for name in schema.get("required") or []:
        if name not in value:
            yield causes.required(f"{path}.{name}" if path else name)
    for name, item in value.items():
        inner = properties.get(name, more if isinstance(more, dict) else None)
        if inner is not None:
            yield from validate(inner, item, f"{path}.{name}" if path else name)


def _junctors(schema: Object, value: Any, path: str) -> Iterator[Cause]:
    for each in schema.get("allOf") or []:
        yield from validate(each, value, path)
    for name, words in (("anyOf", "must validate at least one schema (anyOf)"),
                        ("oneOf", "must validate one and only one schema (oneOf)")):
        options = schema.get(name)
        if options:
            good = sum(1 for each in options if not any(True for _ in validate(each, value, path or "<nil>")))
            if good == 0 or (name == "oneOf" and good > 1):
                yield _body(path, value, words)
    if schema.get("not") and not any(True for _ in validate(schema["not"], value, path or "<nil>")):
        yield _body(path, value, "must not validate the schema (not)")
