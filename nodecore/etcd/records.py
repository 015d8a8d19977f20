"""The nouns of etcd: key-values, events, and transactions as values.

Pure. A transaction reads like the sentence it is:

    await client.txn([unchanged(key, kv.mod_revision)], [Put(key, value)], [Get(key)])

Must not know: gRPC or protobuf. Read next: `nodecore/etcd/client.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it stood after `mod_revision`; `version` counts its writes since `create_revision`."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class Range:
    """Keys in order, as they stood at `revision`; `more` when a limit cut them; `count` is what was there in all."""

    items: list[KeyValue]
    revision: int
    more: bool = False
    count: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """A change: for a DELETE, `kv` holds only the key and the revision; `prev` is what was there before, if asked for."""

    type: Literal["PUT", "DELETE"]
    kv: KeyValue
    prev: KeyValue | None = None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Events in order of revision, never part of one revision; empty when only `revision` moved on."""

    events: list[Event]
    revision: int


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition on one key: `target` `sign` `value`. A key that is not there has 0 everywhere, and no value."""

    key: str
    target: Literal["version", "create", "mod", "value", "lease"]
    sign: Literal["=", "!=", "<", ">"]
    value: int | bytes


def absent(key: str) -> Compare:
    """The key is not there."""
    return Compare(key, "create", "=", 0)


def unchanged(key: str, mod_revision: int) -> Compare:
    """The key was last written at that revision."""
    return Compare(key, "mod", "=", mod_revision)


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key, attached to a lease if given."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key, or with `prefix` all keys that begin so; the removed ones are in the response."""

    key: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key, or with `prefix` all keys that begin so; `newest` reads only the one written last."""

    key: str
    prefix: bool = False
    keys_only: bool = False
    count_only: bool = False
    newest: bool = False


Op = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Which branch ran, at which revision, and one answer per op of it (removed keys for a Delete, none for a Put)."""

    succeeded: bool
    revision: int
    responses: list[Range] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """Seconds left and granted, and the keys that go with it; `ttl` is -1 when there is no such lease."""

    ttl: int
    granted: int
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What one member says about itself; `leader` is 0 when it knows none."""

    version: str
    leader: int
    revision: int
    db_size: int


def range_end(prefix: str) -> bytes:
    r"""The first key after all keys that begin with `prefix`; for the empty prefix, `\0`: to the end."""
    raw = prefix.encode().rstrip(b"\xff")
    return raw[:-1] + bytes([raw[-1] + 1]) if raw else b"\0"
