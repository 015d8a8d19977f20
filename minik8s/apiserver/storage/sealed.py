"""An etcd client that seals what it writes and opens what it reads: those who use it see plain values.

Read next: `sealing.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from minik8s.apiserver.storage.sealing import Sealing
from nodecore.errors import Invalid
from nodecore.etcd.client import Compare, EtcdClient, EtcdConfig, KeyValue, Put, Range, TxnResult, Watch
from nodecore.etcd.connection import Connection
from nodecore.etcd.records import Event, Op, WatchBatch


class SealedEtcd(EtcdClient):
    """The client."""

    def __init__(self, config: EtcdConfig, sealing: Sealing) -> None:
        super().__init__(config)
        self._sealing = sealing

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        """One key, opened."""
        found = await super().get(key, revision=revision)
        return opened(self._sealing, found) if found else None

    async def range(self, prefix: str, *, limit: int = 0, revision: int = 0, start: str = "", keys_only: bool = False) -> Range:
        """Keys in order, opened."""
        found = await super().range(prefix, limit=limit, revision=revision, start=start, keys_only=keys_only)
        return _range(self._sealing, found)

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write a key, sealed."""
        return await super().put(key, self._sealing.seal(key, value), lease=lease)

    async def txn(self, compare: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        """A transaction, its writes sealed, its answers opened."""
        done = await super().txn(compare, [self._op(op) for op in success], [self._op(op) for op in failure])
        return dataclasses.replace(done, responses=[_range(self._sealing, each) for each in done.responses])

    def _op(self, op: Op) -> Op:
        return Put(op.key, self._sealing.seal(op.key, op.value), op.lease) if isinstance(op, Put) else op

    def watch(self, prefix: str, revision: int, *, previous: bool = True) -> Watch:
        """Changes, opened."""
        return _OpenedWatch(self._connection, prefix, revision, previous=previous, sealing=self._sealing)


class _OpenedWatch(Watch):
    def __init__(self, connection: Connection, prefix: str, revision: int, *, previous: bool, sealing: Sealing) -> None:
        super().__init__(connection, prefix, revision, previous=previous)
        self._sealing = sealing

    async def __anext__(self) -> WatchBatch:
        batch = await super().__anext__()
        return WatchBatch([self._event(event) for event in batch.events], batch.revision)

    def _event(self, event: Event) -> Event:
        kv = opened(self._sealing, event.kv)
        return event if kv is event.kv else Event(event.type, kv, event.prev)


def opened(sealing: Sealing, kv: KeyValue) -> KeyValue:
    """A key-value with its value opened; one that no key opens stays as it is, and nobody will be able to read it."""
    if not kv.value or not sealing.of(kv.key):
        return kv
    try:
        return dataclasses.replace(kv, value=sealing.open(kv.key, kv.value))
    except Invalid:
        return kv


def _range(sealing: Sealing, found: Range) -> Range:
    items: list[Any] = [opened(sealing, kv) for kv in found.items]
    return dataclasses.replace(found, items=items)
