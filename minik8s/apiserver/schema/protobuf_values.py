"""The bytes of protobuf: numbers, fields, and Kubernetes' own sorts of values. Pure.

Must not know: messages of the API. Read next: `protobuf.py`, which reads those.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable, Iterator
from typing import Any

from nodecore.errors import Invalid

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Value = int | bytes
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
ZERO_TIME = (-62135596800, 0)


def damaged(why: str) -> Invalid:
    """The refusal of a body that nobody wrote so."""
    return Invalid(f"protobuf body is damaged: {why}")


def varint(raw: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise IndexError("a number has no end")


def skip(form: int, raw: bytes, at: int) -> int:
    """Where a field that nobody asked for ends."""
    if form == VARINT:
        return varint(raw, at)[1]
    if form == BYTES:
        size, at = varint(raw, at)
        return at + size
    if form in (FIXED64, FIXED32):
        return at + (8 if form == FIXED64 else 4)
    raise damaged(f"wire type {form}")


def wire(raw: bytes) -> Iterator[tuple[int, Value]]:
    """The (number, value) pairs of a message: varints as int, all else as bytes."""
    at = 0
    while at < len(raw):
        key, at = varint(raw, at)
        form = key & 7
        if form == VARINT:
            value, at = varint(raw, at)
            yield key >> 3, value
            continue
        start = at
        if form == BYTES:
            size, start = varint(raw, at)
            at = start + size
        else:
            at = skip(form, raw, at)
        if at > len(raw):
            raise IndexError("it ends inside a field")
        yield key >> 3, raw[start:at]


def _text(value: Value) -> str:
    if isinstance(value, int):
        raise damaged("a number where text belongs")
    return value.decode()


def _signed(value: Value) -> int:
    if isinstance(value, bytes):
        raise damaged("text where a number belongs")
    return value - (1 << 64) if value >> 63 else value


def _quantity(raw: bytes) -> str:
    return _text(dict(wire(raw)).get(1, b""))


def _int_or_string(raw: bytes) -> int | str:
    parts = dict(wire(raw))
    return _text(parts.get(3, b"")) if parts.get(1) else _signed(parts.get(2, 0))


def _time(raw: bytes) -> str | None:
    """RFC 3339 in seconds, or in microseconds where there are any; the zero time is no time."""
    parts = dict(wire(raw))
    seconds, nanos = _signed(parts.get(1, 0)), _signed(parts.get(2, 0))
    if not parts or (seconds, nanos) == ZERO_TIME:
        return None
    moment = EPOCH + datetime.timedelta(seconds=seconds, microseconds=nanos // 1000)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}" if nanos else moment.isoformat()[:-6] + "Z"


def _embedded(raw: bytes) -> Any:
    inner = _text(dict(wire(raw)).get(1, b""))
    try:
        return json.loads(inner) if inner else None
    except (ValueError, RecursionError):
        raise Invalid("protobuf body holds an embedded object that is not JSON") from None


def _strings(raw: bytes) -> list[str]:
    return [_text(item) for number, item in wire(raw) if number == 1]


READERS: dict[str, Callable[[bytes], Any]] = {
    "string": bytes.decode,
    "bytes": lambda raw: base64.b64encode(raw).decode(),
    "quantity": _quantity,
    "intorstring": _int_or_string,
    "time": _time,
    "json": _embedded,
    "strings": _strings,
}
