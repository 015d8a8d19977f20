"""The backup file: gzipped lines of JSON, a head, a line a key, a foot that tells whether all is there. Pure.

    {"format": 1, "prefix": "/registry/", "revision": 1234, "leases": {"7587...": 3100}}
    {"key": "/registry/pods/default/web", "value": "<base64>", "lease": 0}
    {"keys": 812, "sha256": "..."}                   of all lines before it

Must not know: etcd. Read next: `state.py`.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from nodecore.errors import UserError

FORMAT = 1


class Head(msgspec.Struct):
    """What the file holds: keys below `prefix` as they stood at `revision`, and the seconds each lease had left."""

    format: int
    prefix: str
    revision: int
    leases: dict[str, int]


class Key(msgspec.Struct):
    """One key."""

    key: str
    value: bytes
    lease: int = 0


class Foot(msgspec.Struct):
    """How many lines a whole file has, and what they come to."""

    keys: int
    sha256: str


def write(path: Path, head: Head, keys: Iterable[Key]) -> int:
    """Write the file under a name of its own and put it in place once it is whole; returns how many keys it has."""
    made, count, digest = path.with_name(path.name + ".partial"), 0, hashlib.sha256()
    with gzip.open(made, "wb") as file:
        for line in (head, *keys):
            data = msgspec.json.encode(line) + b"\n"
            digest.update(data)
            file.write(data)
            count += 1
        file.write(msgspec.json.encode(Foot(count - 1, digest.hexdigest())) + b"\n")
    made.rename(path)
    return count - 1


def read(path: Path) -> tuple[Head, list[Key]]:
    """All of a file, if it is whole."""
    try:
        with gzip.open(path, "rb") as file:
            lines = file.read().splitlines(keepends=True)
        foot = msgspec.json.decode(lines[-1], type=Foot)
        head = msgspec.json.decode(lines[0], type=Head)
        keys = [msgspec.json.decode(line, type=Key) for line in lines[1:-1]]
    except FileNotFoundError:
        raise UserError(f"FILE: {path} is not there") from None
    except (OSError, EOFError, ValueError, IndexError, msgspec.DecodeError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise UserError(f"FILE: {path} is no backup, or only a part of one: {error}") from None
    if foot != Foot(len(keys), hashlib.sha256(b"".join(lines[:-1])).hexdigest()):
        raise UserError(f"FILE: {path} is damaged: its checksum does not fit")
    if head.format != FORMAT:
        raise UserError(f"FILE: {path} is of format {head.format}; this program knows {FORMAT}")
    return head, keys
