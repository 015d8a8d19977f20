"""Protobuf request bodies -> JSON objects: what kubectl sends for `create deployment`, `create token`, `drain` and the like.

A body is `k8s\\0` and a runtime.Unknown {1 typeMeta {1 apiVersion, 2 kind}, 2 raw}; `raw` is the object by the numbers in
`fields.json`. Go writes every plain field even when empty: as there, empty strings, zeros and false are left out again unless
the field is held by pointer, or JSON always shows it. Numbers of a later Kubernetes are passed over, as the original does.
Pure but for reading the table once.
Must not know: HTTP. Read next: `protobuf_out.py`, the way out; `fields_tool.py`, which made the table.
"""

from __future__ import annotations

import base64
import datetime
import functools
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nodecore.errors import Invalid

MAGIC = b"k8s\0"
ALWAYS = ("intorstring", "schemabool")  # their zeros are values
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Value = int | bytes
CORE_ONLY = {"DeleteOptions": "meta.v1.DeleteOptions", "CreateOptions": "meta.v1.CreateOptions", "Status": "meta.v1.Status"}


def decode_protobuf(body: bytes) -> dict[str, Any]:
    """The object in an envelope; Invalid if it is cut short, or of a kind that is not served."""
    if not body.startswith(MAGIC):
        raise Invalid("protobuf body does not begin with its k8s mark")
    try:
        api_version, kind, raw = _unwrap(body[len(MAGIC):])
        obj = decode_message(message_of(api_version, kind), raw)
    except RecursionError:
        raise Invalid("protobuf body is nested too deep") from None
    except (IndexError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise Invalid(f"protobuf body is damaged: {error}") from None
    return {"apiVersion": api_version, "kind": kind, **obj}


def decode_message(name: str, raw: bytes) -> dict[str, Any]:
    """One message of the table as a JSON object."""
    fields = table()[name]
    made: dict[str, Any] = {}
    for number, value in _wire(raw):
        line = fields.get(str(number))
        if line is not None:
            _add(made, line, value)
    for listed in _lists(name):
        made.setdefault(listed, [])
    return made


@functools.cache
def _lists(name: str) -> tuple[str, ...]:
    """The lists that JSON always shows."""
    return tuple(line.partition(" ")[0] for line in table()[name].values() if line.partition(" ")[2].startswith("![]"))


@functools.lru_cache(maxsize=1)
def table() -> dict[str, dict[str, str]]:
    """Message -> number -> name and type."""
    found: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("fields.json").read_bytes())
    return found


def _unwrap(envelope: bytes) -> tuple[str, str, bytes]:
    parts = dict(_wire(envelope))
    meta = dict(_wire(_octets(parts.get(1, b""))))
    return _octets(meta.get(1, b"")).decode(), _octets(meta.get(2, b"")).decode(), _octets(parts.get(2, b""))


def message_of(api_version: str, kind: str) -> str:
    """The message of a kind; Invalid for one that has none."""
    group, _, version = api_version.rpartition("/")
    name = CORE_ONLY.get(kind) or f"{group.partition('.')[0] or 'core'}.{version}.{kind}"
    if name not in table():
        raise Invalid(f'no kind "{kind}" is registered for version "{api_version}" in protobuf')
    return name


def _add(made: dict[str, Any], line: str, value: Value) -> None:
    name, _, kind = line.partition(" ")
    if kind.startswith("map "):
        key, item = _entry(kind[4:], _octets(value))
        made.setdefault(name, {})[key] = item
    elif kind.startswith(("[]", "![]")):
        made.setdefault(name, []).extend(_items(kind.removeprefix("!")[2:], value))
    elif kind.startswith("<"):
        made.update(decode_message(kind[1:], _octets(value)))
    elif kind.startswith(("*", "!")):
        made[name] = _value(kind[1:], value)
    else:
        found = _value(kind, value)
        if found or isinstance(found, dict) or kind in ALWAYS:
            made[name] = found


def _entry(kind: str, raw: bytes) -> tuple[str, Any]:
    parts = dict(_wire(raw))
    return _octets(parts.get(1, b"")).decode(), _value(kind, parts.get(2, b""))


def _items(kind: str, value: Value) -> list[Any]:
    if isinstance(value, bytes) and kind in ("int32", "int64", "bool"):  # packed
        return [_value(kind, item) for item in _varints(value)]
    return [_value(kind, value)]


def _value(kind: str, value: Value) -> Any:
    special = SPECIAL.get(kind)
    return special(value) if special else decode_message(kind, _octets(value))


def _octets(value: Value) -> bytes:
    if isinstance(value, int):
        raise Invalid("protobuf body is damaged: a number where a message or text belongs")
    return value


def _signed(value: Value) -> int:
    if isinstance(value, bytes):
        raise Invalid("protobuf body is damaged: text where a number belongs")
    return value - (1 << 64) if value >> 63 else value


def _quantity(value: Value) -> str:
    return _octets(dict(_wire(_octets(value))).get(1, b"")).decode()


def _int_or_string(value: Value) -> int | str:
    parts = dict(_wire(_octets(value)))
    return _octets(parts.get(3, b"")).decode() if parts.get(1) else _signed(parts.get(2, 0))


def _time(value: Value) -> str | None:
    """RFC 3339 in seconds, or in microseconds where there are any; the zero time is no time."""
    parts = dict(_wire(_octets(value)))
    seconds, nanos = _signed(parts.get(1, 0)), _signed(parts.get(2, 0))
    if not parts or (seconds, nanos) == (-62135596800, 0):
        return None
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds, microseconds=nanos // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if nanos else "%Y-%m-%dT%H:%M:%SZ")


def _embedded(value: Value) -> Any:
    raw = _octets(dict(_wire(_octets(value))).get(1, b""))
    try:
        return json.loads(raw) if raw else None
    except (ValueError, RecursionError):
        raise Invalid("protobuf body holds an embedded object that is not JSON") from None


def _strings(value: Value) -> list[str]:
    return [_octets(item).decode() for number, item in _wire(_octets(value)) if number == 1]


def _schemas(value: Value) -> Any:
    """A schema, or a list of them."""
    parts = list(_wire(_octets(value)))
    if any(number == 1 for number, _ in parts):
        return _value("apiextensions.v1.JSONSchemaProps", dict(parts)[1])
    return [_value("apiextensions.v1.JSONSchemaProps", item) for number, item in parts if number == 2]


def _schema_or_bool(value: Value) -> Any:
    parts = dict(_wire(_octets(value)))
    return _value("apiextensions.v1.JSONSchemaProps", parts[2]) if 2 in parts else bool(_signed(parts.get(1, 0)))


def _schema_or_strings(value: Value) -> Any:
    parts = list(_wire(_octets(value)))
    if any(number == 1 for number, _ in parts):
        return _value("apiextensions.v1.JSONSchemaProps", dict(parts)[1])
    return [_octets(item).decode() for number, item in parts if number == 2]


SPECIAL: dict[str, Callable[[Value], Any]] = {
    "string": lambda value: _octets(value).decode(),
    "bytes": lambda value: base64.b64encode(_octets(value)).decode(),
    "bool": lambda value: bool(_signed(value)),
    "int32": _signed,
    "int64": _signed,
    "double": lambda value: struct.unpack("<d", _octets(value))[0],
    "quantity": _quantity,
    "intorstring": _int_or_string,
    "time": _time,
    "json": _embedded,
    "strings": _strings,
    "schemas": _schemas,
    "schemabool": _schema_or_bool,
    "schemastrings": _schema_or_strings,
}


def _wire(raw: bytes) -> Iterator[tuple[int, Value]]:
    """The (number, value) pairs of a message: varints as int, all else as bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        form = key & 7
        if form == VARINT:
            value, at = _varint(raw, at)
            yield key >> 3, value
            continue
        if form == BYTES:
            size, at = _varint(raw, at)
        elif form in (FIXED64, FIXED32):
            size = 8 if form == FIXED64 else 4
        else:
            raise Invalid(f"protobuf body is damaged: wire type {form}")
        if at + size > len(raw):
            raise IndexError("it ends inside a field")
        yield key >> 3, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise IndexError("a number has no end")


def _varints(raw: bytes) -> Iterator[int]:
    at = 0
    while at < len(raw):
        value, at = _varint(raw, at)
        yield value
