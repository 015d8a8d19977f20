"""Header blocks of HTTP/2 (RFC 7541) as far as gRPC needs them.

Written: literals that are not indexed. Read: everything but a dynamic table, which our SETTINGS forbid the other side; so a block
always means the same, and those that come again and again are read once.
Pure. Read next: `connection.py`.
"""

from __future__ import annotations

from functools import lru_cache

STATIC = tuple(tuple(line.split("=", 1)) for line in """:authority=
:method=GET
:method=POST
:path=/
:path=/index.html
:scheme=http
:scheme=https
:status=200
:status=204
:status=206
:status=304
:status=400
:status=404
:status=500
accept-charset=
accept-encoding=gzip, deflate
accept-language=
accept-ranges=
accept=
access-control-allow-origin=
age=
allow=
authorization=
cache-control=
content-disposition=
content-encoding=
content-language=
content-length=
content-location=
content-range=
content-type=
cookie=
date=
etag=
expect=
expires=
from=
host=
if-match=
if-modified-since=
if-none-match=
if-range=
if-unmodified-since=
last-modified=
link=
location=
max-forwards=
proxy-authenticate=
proxy-authorization=
range=
referer=
refresh=
retry-after=
server=
set-cookie=
strict-transport-security=
transfer-encoding=
user-agent=
vary=
via=
www-authenticate=""".splitlines())
# how many bits the code of each byte has, 0-9 a-z; codes are numbered by length, then by byte
BITS = (
    "dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6cad67777777777777777777777878djde6f565"
    "65666577666567655677777fbedskmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllmlnmnnkmmmnmmnqqkjmnmp"
    "qqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu"
)
EOS = 256


class Unreadable(Exception):
    """Not a header block, or one that needs a dynamic table."""


def _codes() -> dict[tuple[int, int], int]:
    found: dict[tuple[int, int], int] = {}
    code = before = 0
    for length, symbol in sorted((int(bits, 36), symbol) for symbol, bits in enumerate(BITS)):
        code <<= length - before
        found[length, code] = symbol
        code, before = code + 1, length
    return found


def literal(name: str, value: str) -> bytes:
    """A field, spelled out."""
    return b"\0" + _text(name) + _text(value)


def _text(value: str) -> bytes:
    data = value.encode()
    return _number(len(data), 7) + data


def _number(value: int, bits: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes((value,))
    value -= most
    parts = [most]
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes((*parts, value))


@lru_cache(64)
def read(block: bytes) -> dict[str, str]:
    """The fields of a block; the first of a name."""
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _read_number(block, at, 7)
                name, value = _static(index)
            elif first & 0xE0 == 0x20:
                size, at = _read_number(block, at, 5)
                if size:
                    raise Unreadable("a dynamic table, which was forbidden")
                continue
            else:
                index, at = _read_number(block, at, 6 if first & 0x40 else 4)
                name, at = (_static(index)[0], at) if index else _read_text(block, at)
                value, at = _read_text(block, at)
            found.setdefault(name, value)
    except (IndexError, ValueError) as error:
        raise Unreadable(str(error)) from None
    return found


def _static(index: int) -> tuple[str, str]:
    if not 1 <= index <= len(STATIC):
        raise Unreadable(f"no field has index {index}")
    name, value = STATIC[index - 1]
    return name, value


def _read_number(block: bytes, at: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 35, 7):
        byte = block[at]
        at += 1
        value += (byte & 127) << shift
        if not byte & 128:
            return value, at
    raise ValueError("a number that is too long")


def _read_text(block: bytes, at: int) -> tuple[str, int]:
    coded = block[at] & 0x80
    length, at = _read_number(block, at, 7)
    data = block[at:at + length]
    if len(data) < length:
        raise ValueError("a text is cut off")
    return (_unpacked(data) if coded else data).decode("utf-8", "replace"), at + length


def _unpacked(data: bytes) -> bytes:
    codes = _tables()
    found = bytearray()
    code = length = 0
    for byte in data:
        for shift in range(7, -1, -1):
            code, length = code << 1 | byte >> shift & 1, length + 1
            symbol = codes.get((length, code))
            if symbol is not None:
                if symbol == EOS:
                    raise ValueError("the end within a text")
                found.append(symbol)
                code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise ValueError("a text ends within a code")
    return bytes(found)


@lru_cache(1)
def _tables() -> dict[tuple[int, int], int]:
    return _codes()
