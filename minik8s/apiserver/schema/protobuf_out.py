"""JSON objects -> protobuf: the answers Go components ask for, in the frames they read.

    envelope(obj)                 `k8s\\0` and a runtime.Unknown {1 typeMeta {1 apiVersion, 2 kind}, 2 raw}
    item_of, joined               a list in one envelope, item by item
    watch_frame(type, envelope)   one event of a watch: its length in four bytes, then the event

What an object does not say is left out, as a reader takes it for the field's zero. Encoders are made of the table of field
numbers, a message at a time when it is first needed. Pure but for reading the table once.
Must not know: HTTP. Read next: `protobuf.py`, the way in.
"""

from __future__ import annotations

import base64
import functools
import struct
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from minik8s.apiserver.schema.protobuf import MAGIC, message_of, table
from nodecore.errors import Invalid

Object = dict[str, Any]
Encode = Callable[[Any], bytes]
NOTHING_MORE = b"\x1a\x00\x22\x00"
SHORT = [bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7]) for size in range(1 << 12)]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_messages: dict[str, Encode] = {}


def envelope(obj: Object) -> bytes:
    """One object, ready to be sent; Invalid for a kind that has no field numbers."""
    version, kind = obj.get("apiVersion", ""), obj.get("kind", "")
    return _enveloped(version, kind, message(message_of(version, kind))(obj))


def item_of(version: str, kind: str) -> Encode:
    """What makes the bytes of one item of a list."""
    return message(table()[message_of(version, kind)]["2"].partition("[]")[2])


def joined(version: str, kind: str, meta: Object, items: Iterable[bytes]) -> bytes:
    """A list of items made by `item_of`."""
    parts = [_field(0x0A, message("meta.v1.ListMeta")(meta))]
    for raw in items:
        parts += (b"\x12", _size(len(raw)), raw)
    return _enveloped(version, kind, b"".join(parts))


@functools.lru_cache(maxsize=512)
def known(version: str, kind: str) -> bool:
    """Whether a kind can be said in protobuf."""
    try:
        return bool(message_of(version, kind))
    except Invalid:
        return False


def watch_frame(type: str, object_envelope: bytes) -> bytes:
    """One event of a watch."""
    event = _field(0x0A, type.encode()) + _field(0x12, _field(0x0A, object_envelope))
    return struct.pack(">I", len(event)) + event


def _enveloped(version: str, kind: str, raw: bytes) -> bytes:
    meta = _field(0x0A, version.encode()) + _field(0x12, kind.encode())
    return b"".join((MAGIC, _field(0x0A, meta), b"\x12", _size(len(raw)), raw, NOTHING_MORE))


def message(name: str) -> Encode:
    """The encoder of a message."""
    found = _messages.get(name)
    if found is None:
        found = _messages[name] = _Message(name).encode
    return found


class _Message:
    """One message: an encoder a field, made when the first object comes by; fields of embedded structs belong to them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._fields: dict[str, Encode] | None = None
        self._inlined: list[tuple[bytes, Encode, frozenset[str]]] = []

    def encode(self, obj: Any) -> bytes:
        """The message's bytes."""
        fields = self._fields if self._fields is not None else self._prepare()
        parts = []
        for name, value in obj.items():
            if value is not None:
                field = fields.get(name)
                if field is not None:
                    parts.append(field(value))
        for tag, inner, names in self._inlined:
            if not names.isdisjoint(obj):
                raw = inner(obj)
                parts += (tag, _size(len(raw)), raw)
        return b"".join(parts)

    def _prepare(self) -> dict[str, Encode]:
        made: dict[str, Encode] = {}
        for number, line in table()[self._name].items():
            name, _, kind = line.partition(" ")
            if kind.startswith("<"):
                self._inlined.append((_tag(int(number), 2), message(kind[1:]), _names(kind[1:])))
            else:
                made[name] = _encoder(int(number), kind)
        self._fields = made
        return made


def _names(name: str) -> frozenset[str]:
    found: set[str] = set()
    for line in table()[name].values():
        field, _, kind = line.partition(" ")
        found |= _names(kind[1:]) if kind.startswith("<") else {field}
    return frozenset(found)


def _encoder(number: int, kind: str) -> Encode:
    if kind.startswith("map "):
        return _map(_tag(number, 2), _encoder(2, kind[4:]))
    if kind.startswith(("[]", "![]")):
        one = _encoder(number, kind.removeprefix("!")[2:])
        return lambda values: b"".join([one(value) for value in values])
    kind = kind.lstrip("*!")
    if kind == "string":
        return _text(_tag(number, 2))
    if kind in ("int32", "int64", "bool"):
        return _number(_tag(number, 0))
    if kind == "double":
        head = _tag(number, 1)
        return lambda value: head + struct.pack("<d", value)
    return _delimited(_tag(number, 2), SPECIAL.get(kind) or message(kind))


def _map(tag: bytes, value: Encode) -> Encode:
    name = _text(b"\x0a")

    def encode(entries: Any) -> bytes:
        parts: list[bytes] = []
        for key, inner in entries.items():
            raw = name(key) + value(inner)
            parts += (tag, _size(len(raw)), raw)
        return b"".join(parts)

    return encode


def _text(tag: bytes) -> Encode:
    sized = [tag + size for size in SHORT[:128]]

    def encode(value: str) -> bytes:
        raw = value.encode()
        size = len(raw)
        return sized[size] + raw if size < 128 else tag + _size(size) + raw

    return encode


def _number(tag: bytes) -> Encode:
    def encode(value: int) -> bytes:
        return tag + (SHORT[value] if 0 <= value < 4096 else _varint(value))

    return encode


def _delimited(tag: bytes, inner: Encode) -> Encode:
    def encode(value: Any) -> bytes:
        raw = inner(value)
        size = len(raw)
        return tag + (SHORT[size] if size < 4096 else _varint(size)) + raw

    return encode


def _tag(number: int, form: int) -> bytes:
    return _varint(number << 3 | form)


def _field(tag: int, raw: bytes) -> bytes:
    return bytes((tag,)) + _size(len(raw)) + raw


def _size(size: int) -> bytes:
    return SHORT[size] if size < 4096 else _varint(size)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _time(value: str) -> bytes:
    if not value:
        return b""
    whole, _, rest = value.partition(".")
    moment = datetime.fromisoformat(value if not rest else whole + "+00:00" if value.endswith("Z") else whole + _zone(rest))
    seconds = int((moment - EPOCH).total_seconds())
    digits = rest[: len(rest) - len(_zone(rest))] if rest else ""
    nanos = int(digits[:9].ljust(9, "0")) if digits else 0
    made = b"\x08" + _varint(seconds) if seconds else b""
    return made + (b"\x10" + _varint(nanos) if nanos else b"") or b"\x08\x00"


def _zone(rest: str) -> str:
    return rest.lstrip("0123456789")


def _quantity(value: Any) -> bytes:
    return _field(0x0A, str(value).encode())


def _int_or_string(value: Any) -> bytes:
    if isinstance(value, str):
        return b"\x08\x01\x10\x00" + _field(0x1A, value.encode())
    return b"\x08\x00\x10" + _varint(value) + b"\x1a\x00"


def _embedded(value: Any) -> bytes:
    return _field(0x0A, msgspec.json.encode(value))


def _strings(values: list[str]) -> bytes:
    return b"".join([_field(0x0A, value.encode()) for value in values])


def _schemas(value: Any) -> bytes:
    props = message("apiextensions.v1.JSONSchemaProps")
    if isinstance(value, list):
        return b"".join([_field(0x12, props(each)) for each in value])
    return _field(0x0A, props(value))


def _schema_or_bool(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"\x08" + bytes((value,))
    return b"\x08\x01" + _field(0x12, message("apiextensions.v1.JSONSchemaProps")(value))


def _schema_or_strings(value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join([_field(0x12, each.encode()) for each in value])
    return _field(0x0A, message("apiextensions.v1.JSONSchemaProps")(value))


SPECIAL: dict[str, Encode] = {
    "bytes": base64.b64decode, "quantity": _quantity, "intorstring": _int_or_string, "time": _time, "json": _embedded,
    "strings": _strings, "schemas": _schemas, "schemabool": _schema_or_bool, "schemastrings": _schema_or_strings,
}
