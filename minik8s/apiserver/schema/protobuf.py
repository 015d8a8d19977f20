"""Protobuf bodies -> JSON objects: what kubectl sends for `create deployment`, `drain` and the like, and Go's components always.

A body is `k8s\\0` and a runtime.Unknown {1 typeMeta {1 apiVersion, 2 kind}, 2 raw}; `raw` is the object by the numbers in
`fields.json`. Go writes every plain field even when empty: as there, empty strings, zeros and false are left out again unless
the field is held by pointer, or JSON always shows it. Numbers of a later Kubernetes are passed over, as the original does.
Readers are made of the table a message at a time: tag -> a function that reads the field and says where the next one begins.
Pure but for reading the table once.
Must not know: HTTP. Read next: `protobuf_values.py`; `protobuf_out.py`, the way out; `fields_tool.py`, which made the table.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minik8s.apiserver.schema.protobuf_values import READERS, damaged, skip, varint, wire
from nodecore.errors import Invalid

MAGIC = b"k8s\0"
VARINT, FIXED64, BYTES = 0, 1, 2
NUMBERS = ("int32", "int64", "bool")
ALWAYS = ("intorstring", "schemabool")  # their zeros are values
CORE_ONLY = {"DeleteOptions": "meta.v1.DeleteOptions", "CreateOptions": "meta.v1.CreateOptions", "Status": "meta.v1.Status"}
SCHEMA = "apiextensions.v1.JSONSchemaProps"
Object = dict[str, Any]
Take = Callable[[Object, bytes, int, int], int]  # object, body, where the value begins and the message ends -> where it ends
Read = Callable[[bytes], Any]


def decode_protobuf(body: bytes) -> Object:
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


def decode_message(name: str, raw: bytes) -> Object:
    """One message of the table as a JSON object."""
    return _message(name).read(raw, 0, len(raw))


@functools.lru_cache(maxsize=1)
def table() -> dict[str, dict[str, str]]:
    """Message -> number -> name and type."""
    found: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("fields.json").read_bytes())
    return found


def message_of(api_version: str, kind: str) -> str:
    """The message of a kind; Invalid for one that has none."""
    group, _, version = api_version.rpartition("/")
    name = CORE_ONLY.get(kind) or f"{group.partition('.')[0] or 'core'}.{version}.{kind}"
    if name not in table():
        raise Invalid(f'no kind "{kind}" is registered for version "{api_version}" in protobuf')
    return name


def _unwrap(envelope: bytes) -> tuple[str, str, bytes]:
    parts = dict(wire(envelope))
    meta = dict(wire(_octets(parts.get(1, b""))))
    return _octets(meta.get(1, b"")).decode(), _octets(meta.get(2, b"")).decode(), _octets(parts.get(2, b""))


def _octets(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise damaged("a number where a message or text belongs")
    return value


@functools.cache
def _message(name: str) -> _Message:
    return _Message(name)


class _Message:
    """One message's readers by tag, made when the first one is read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._takes: dict[int, Take] | None = None
        self._numbers: frozenset[int] = frozenset()
        self._lists: tuple[str, ...] = ()

    def read(self, raw: bytes, at: int, end: int) -> Object:
        """The message between two places of a body."""
        made: Object = {}
        self.into(made, raw, at, end)
        return made

    def into(self, made: Object, raw: bytes, at: int, end: int) -> int:
        """Put the message's fields into an object: its own, or that of the struct it is embedded in."""
        takes = self._takes if self._takes is not None else self._prepare()
        while at < end:
            tag = raw[at]
            at += 1
            if tag > 0x7F:
                tag, at = varint(raw, at - 1)
            take = takes.get(tag)
            if take is not None:
                at = take(made, raw, at, end)
            elif tag >> 3 in self._numbers:
                raise damaged("a number where a message or text belongs, or the other way round")
            else:
                at = skip(tag & 7, raw, at)
        if at > end:
            raise damaged("it ends inside a field")
        for name in self._lists:
            if name not in made:
                made[name] = []
        return at

    def _prepare(self) -> dict[int, Take]:
        made: dict[int, Take] = {}
        lines = table()[self._name]
        for number, line in lines.items():
            name, _, kind = line.partition(" ")
            made.update(_takes(int(number) << 3, name, kind))
        self._numbers = frozenset(map(int, lines))
        self._lists = tuple(line.partition(" ")[0] for line in lines.values() if " ![]" in line)
        self._takes = made
        return made


def _takes(tag: int, name: str, kind: str) -> dict[int, Take]:
    """The functions for one field, by the tags it may come with."""
    if kind.startswith("map "):
        return {tag | BYTES: _map(name, kind[4:])}
    if kind.startswith(("[]", "![]")):
        item = kind.removeprefix("!")[2:]
        if item in NUMBERS:
            return {tag | VARINT: _number(name, item, many=True), tag | BYTES: _packed(name, item)}
        return {tag | BYTES: _octet(name, _value(item), many=True)}
    if kind.startswith("<"):
        return {tag | BYTES: _embedded(kind[1:])}
    keep, plain = kind.startswith(("*", "!")), kind.lstrip("*!")
    if plain in NUMBERS:
        return {tag | VARINT: _number(name, plain, keep=keep)}
    if plain == "double":
        return {tag | FIXED64: _double(name, keep=keep)}
    if plain == "string":
        return {tag | BYTES: _text(name, keep=keep)}
    if plain not in READERS and plain not in SCHEMAS:
        return {tag | BYTES: _inner(name, plain)}
    return {tag | BYTES: _octet(name, _value(plain), keep=keep or plain in ALWAYS)}


def _span(raw: bytes, at: int, end: int) -> tuple[int, int]:
    """Where a value of a said size begins and ends."""
    size = raw[at]
    at += 1
    if size > 0x7F:
        size, at = varint(raw, at - 1)
    if at + size > end:
        raise IndexError("it ends inside a field")
    return at, at + size


def _text(name: str, *, keep: bool) -> Take:
    def take(made: Object, raw: bytes, at: int, end: int) -> int:
        size = raw[at]
        at += 1
        if size > 0x7F:
            at, stop = _span(raw, at - 1, end)
        else:
            stop = at + size
            if stop > end:
                raise IndexError("it ends inside a field")
        if keep or at < stop:
            made[name] = raw[at:stop].decode()
        return stop

    return take


def _octet(name: str, read: Read, *, keep: bool = False, many: bool = False) -> Take:
    def take(made: Object, raw: bytes, at: int, end: int) -> int:
        at, stop = _span(raw, at, end)
        value = read(raw[at:stop])
        if many:
            made.setdefault(name, []).append(value)
        elif keep or value or isinstance(value, dict):
            made[name] = value
        return stop

    return take


def _inner(name: str, kind: str) -> Take:
    message = _message(kind)

    def take(made: Object, raw: bytes, at: int, end: int) -> int:
        at, stop = _span(raw, at, end)
        made[name] = message.read(raw, at, stop)
        return stop

    return take


def _embedded(kind: str) -> Take:
    message = _message(kind)

    def take(made: Object, raw: bytes, at: int, end: int) -> int:
        return message.into(made, raw, *_span(raw, at, end))

    return take


def _number(name: str, kind: str, *, keep: bool = False, many: bool = False) -> Take:
    flag = kind == "bool"

    def take(made: Object, raw: bytes, at: int, end: int) -> int:
        value = raw[at]
        at += 1
        if value > 0x7F:
            value, at = varint(raw, at - 1)
            value = value - (1 << 64) if value >> 63 else value
        if many:
            made.setdefault(name, []).append(bool(value) if flag else value)
        elif keep or value:
            made[name] = bool(value) if flag else value
        return at

    return take


def _packed(name: str, kind: str) -> Take:
    one = _number(name, kind, many=True)

    def take(made: Object, raw: bytes, at: int, end: int) -> int:
        at, stop = _span(raw, at, end)
        while at < stop:
            at = one(made, raw, at, stop)
        return at

    return take


def _double(name: str, *, keep: bool) -> Take:
    def take(made: Object, raw: bytes, at: int, end: int) -> int:
        value: float = struct.unpack_from("<d", raw, at)[0]
        if keep or value:
            made[name] = value
        return at + 8

    return take


def _map(name: str, kind: str) -> Take:
    read = _value(kind)

    def take(made: Object, raw: bytes, at: int, end: int) -> int:
        at, stop = _span(raw, at, end)
        parts = dict(wire(raw[at:stop]))
        made.setdefault(name, {})[_octets(parts.get(1, b"")).decode()] = read(_octets(parts.get(2, b"")))
        return stop

    return take


def _value(kind: str) -> Read:
    """What reads the bytes of one value."""
    found = READERS.get(kind) or SCHEMAS.get(kind)
    return found or functools.partial(decode_message, kind)


def _schema(raw: int | bytes) -> Object:
    return decode_message(SCHEMA, _octets(raw))


def _schemas(raw: bytes) -> Any:
    """A schema, or a list of them."""
    parts = list(wire(raw))
    one = next((value for number, value in parts if number == 1), None)
    return [_schema(value) for number, value in parts if number == 2] if one is None else _schema(one)


def _schema_or_bool(raw: bytes) -> Any:
    parts = dict(wire(raw))
    return _schema(parts[2]) if 2 in parts else parts.get(1, 0) not in (0, b"")


def _schema_or_strings(raw: bytes) -> Any:
    parts = list(wire(raw))
    one = next((value for number, value in parts if number == 1), None)
    return [_octets(value).decode() for number, value in parts if number == 2] if one is None else _schema(one)


SCHEMAS: dict[str, Read] = {"schemas": _schemas, "schemabool": _schema_or_bool, "schemastrings": _schema_or_strings}
