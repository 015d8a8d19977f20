"""etcd's verbs over plain values: get, range, put, delete, txn, leases, and a watch that resumes for ever.

    async with EtcdClient(EtcdConfig(("http://127.0.0.1:2379",))) as etcd:
        revision = await etcd.put("/a", b"1")
        async for batch in etcd.watch("/", revision): ...

Raises only `nodecore.errors`: Unreachable and Busy after the retries of `connection.py`, Expired for a compacted
revision, NotFound for a lease that is gone, Denied for a wrong password or role.
Must not know: what the keys mean. Read next: `nodecore/etcd/watch.py`, `nodecore/etcd/connection.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nodecore.errors import AlreadyExists, NotFound
from nodecore.etcd import messages
from nodecore.etcd.config import EtcdConfig, parse_endpoints
from nodecore.etcd.connection import API, Connection
from nodecore.etcd.lease import LeaseCalls
from nodecore.etcd.records import (
    Compare,
    Delete,
    Event,
    Get,
    KeyValue,
    LeaseStatus,
    MemberStatus,
    Op,
    Put,
    Range,
    TxnResult,
    WatchBatch,
    absent,
    range_end,
    unchanged,
)
from nodecore.etcd.watch import Watch

__all__ = [
    "Compare", "Delete", "EtcdClient", "EtcdConfig", "Event", "Get", "KeyValue", "LeaseStatus", "MemberStatus", "Op", "Put",
    "Range", "TxnResult", "Watch", "WatchBatch", "absent", "parse_endpoints", "unchanged",
]


class EtcdClient(LeaseCalls):
    """One cluster, one identity, one connection that moves to another member when its own does not answer."""

    def __init__(self, config: EtcdConfig, *, timeout: float = 5.0) -> None:
        self.config = config
        self._connection = Connection(config, timeout=timeout)

    async def __aenter__(self) -> EtcdClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._connection.close()

    @property
    def observe(self) -> Callable[[str, float], None] | None:
        """Who is told the name and the seconds of each call that was answered."""
        return self._connection.observe

    @observe.setter
    def observe(self, observer: Callable[[str, float], None]) -> None:
        self._connection.observe = observer

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        """One key, as it stands or stood at `revision`."""
        reply = await self._kv("Range", API.RangeRequest(key=key.encode(), revision=revision))
        return messages.key_value(reply.kvs[0]) if reply.kvs else None

    async def range(self, prefix: str, *, limit: int = 0, revision: int = 0, start: str = "",
                    keys_only: bool = False) -> Range:
        """The keys that begin with `prefix`, in order, from `start` on, at most `limit` of them."""
        request = API.RangeRequest(
            key=(start or prefix).encode() or b"\0", range_end=range_end(prefix), limit=limit, revision=revision,
            keys_only=keys_only,
        )
        return messages.range_of(await self._kv("Range", request))

    async def revision(self) -> int:
        """The cluster's revision now, agreed upon by a majority."""
        return int((await self._kv("Range", API.RangeRequest(key=b"\0", count_only=True))).header.revision)

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write a key; returns the revision of the write."""
        return int((await self._kv("Put", API.PutRequest(key=key.encode(), value=value, lease=lease))).header.revision)

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write a key that must not be there yet; returns the revision."""
        done = await self.txn([absent(key)], [Put(key, value, lease)])
        if not done.succeeded:
            raise AlreadyExists(f"etcd: {key} is there already")
        return done.revision

    async def delete(self, key: str) -> bool:
        """Remove a key; says whether it was there."""
        return bool((await self._kv("DeleteRange", API.DeleteRangeRequest(key=key.encode()))).deleted)

    async def delete_prefix(self, prefix: str) -> int:
        """Remove every key that begins with `prefix`; returns how many there were."""
        request = API.DeleteRangeRequest(key=prefix.encode() or b"\0", range_end=range_end(prefix))
        return int((await self._kv("DeleteRange", request)).deleted)

    async def txn(self, compare: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        """Do `success` if every comparison holds, else `failure`; all in one revision."""
        request = API.TxnRequest(
            compare=[messages.compare(each) for each in compare],
            success=[messages.request_op(op) for op in success],
            failure=[messages.request_op(op) for op in failure],
        )
        reads_only = all(isinstance(op, Get) for op in (*success, *failure))
        return messages.txn_result(await self._kv("Txn", request, read=reads_only))

    async def compact(self, revision: int) -> None:
        """Forget what was overwritten before `revision`; raises Expired when that has been done already."""
        await self._kv("Compact", API.CompactionRequest(revision=revision))

    async def status(self) -> MemberStatus:
        """How the member we talk to is."""
        reply = await self._connection.unary("Maintenance", "Status", API.StatusRequest())
        return MemberStatus(reply.version, reply.leader, reply.header.revision, reply.dbSize)

    def watch(self, prefix: str, revision: int, *, previous: bool = True) -> Watch:
        """Every change at or after `revision` (0: from now on) of keys that begin with `prefix`; see `Watch`."""
        return Watch(self._connection, prefix, revision, previous=previous)

    async def _kv(self, method: str, request: Any, *, read: bool | None = None) -> Any:
        return await self._connection.unary("KV", method, request, read=read)


def required(found: KeyValue | None, key: str) -> KeyValue:
    """The key-value, or NotFound."""
    if found is None:
        raise NotFound(f"etcd: {key} is not there")
    return found
