"""Leases in etcd v3, with Go flanneld's keys and values, so that both can share a network.

    <prefix>/config                          the network configuration
    <prefix>/subnets/10.5.52.0-24            a node's lease; the key hangs on an etcd lease of a day

A subnet is taken by creating its key in a transaction that fails when the key is there; whoever loses a race chooses
again. A key that hangs on no etcd lease is a reservation: it stays one.

Must not know: VXLAN, the kernel. Read next: `nodecore/etcd/client.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from flanneld_py.alloc import choose_subnets, fits, is_ours
from flanneld_py.lease import Lease, Part, decode_lease, encode_lease
from flanneld_py.store.port import Held, Snapshot, Standing, Wish
from nodecore.errors import Busy, Conflict, Expired, Fault, Invalid, NotFound
from nodecore.etcd.client import EtcdClient, Put, WatchBatch, absent, unchanged
from nodecore.loop.backoff import Backoff
from nodecore.net import Family, IPAddress

log = logging.getLogger(__name__)

TTL = 86400
RACES = 100


@dataclass(frozen=True, slots=True)
class _Record:
    """A lease as it stands in etcd."""

    lease: Lease
    key: str
    value: bytes
    mod_revision: int
    handle: int


class EtcdLeaseStore:
    """The `LeaseStore` below one prefix of one etcd cluster."""

    def __init__(self, client: EtcdClient, prefix: str, *, ttl: int = TTL, rng: random.Random | None = None) -> None:
        self._client = client
        self._prefix = "/" + prefix.strip("/")
        self._subnets = f"{self._prefix}/subnets/"
        self._ttl = ttl
        self._rng = rng or random.Random()

    async def config(self) -> str | None:
        """The network configuration's text."""
        found = await self._client.get(f"{self._prefix}/config")
        return found.value.decode(errors="replace") if found else None

    async def public_addresses(self) -> Mapping[Family, IPAddress]:
        """None: etcd knows a node by its address only."""
        return {}

    async def preview(self, wish: Wish) -> Lease:
        """The lease `acquire` would take."""
        records, _ = await self._list()
        return self._wanted(wish, records)[0]

    async def acquire(self, wish: Wish) -> Held:
        """Make a lease ours; races are run again."""
        for _ in range(RACES):
            records, revision = await self._list()
            lease, record = self._wanted(wish, records)
            try:
                held = await (self._keep(lease, record, revision) if record else self._create(lease))
            except (Conflict, NotFound) as lost:
                log.info("lost a race for subnet %s (%s), choosing again", lease.key, lost)
                continue
            log.info("%s lease %s", "Keeping" if record else "Allocated", lease.describe())
            await self._remove_misfits(wish, records, keep=lease.key)
            return held
        raise Busy(f"no subnet could be taken: {RACES} races lost")

    def _wanted(self, wish: Wish, records: Mapping[str, _Record]) -> tuple[Lease, _Record | None]:
        """The lease to have, and the record it stands in already."""
        leases = [record.lease for record in records.values()]
        choice = choose_subnets(wish.conf, leases, wish.public, wish.previous, self._rng.randrange)
        old = choice.existing or next((lease for lease in leases if is_ours(lease, wish.public)), None)
        parts = []
        for subnet in choice.subnets:
            family = Family.of(subnet)
            before = old.part(family) if old else None
            parts.append(Part(subnet, wish.public[family], wish.data(family, before)))
        lease = Lease(tuple(parts), wish.backend)
        return lease, records[choice.existing.key] if choice.existing else None

    async def _create(self, lease: Lease) -> Held:
        handle = await self._client.grant(self._ttl)
        key = self._subnets + lease.key
        done = await self._client.txn([absent(key)], [Put(key, encode_lease(lease), handle)])
        if not done.succeeded:
            await self._client.revoke(handle)
            raise Conflict("somebody else has taken it")
        return Held(lease, handle, done.revision, float(self._ttl))

    async def _keep(self, lease: Lease, record: _Record, revision: int) -> Held:
        seconds = float(await self._client.keepalive_once(record.handle)) if record.handle else 0.0
        if record.lease == lease:
            return Held(lease, record.handle, revision, seconds)
        put = Put(record.key, encode_lease(lease), record.handle)
        done = await self._client.txn([unchanged(record.key, record.mod_revision)], [put])
        if not done.succeeded:
            raise Conflict("it was changed meanwhile")
        return Held(lease, record.handle, done.revision, seconds)

    async def _remove_misfits(self, wish: Wish, records: Mapping[str, _Record], *, keep: str) -> None:
        """Leases of ours that the configuration no longer allows; reservations are somebody's word and stay."""
        for key, record in records.items():
            if key != keep and record.handle and is_ours(record.lease, wish.public) and not fits(wish.conf, record.lease):
                log.info("removing our lease %s: the network configuration does not allow it any more", key)
                await self._client.delete(record.key)

    async def renew(self, held: Held) -> float:
        """Start its time anew."""
        return float(await self._client.keepalive_once(held.handle))

    async def announce(self, standing: Standing) -> None:
        """Nothing to do: whoever has a lease is up."""

    async def watch(self) -> AsyncIterator[Snapshot]:
        """All leases now and after every change, through restarts and compactions of etcd."""
        backoff = Backoff(first=0.1, cap=5.0)
        while True:
            try:
                records, revision = await self._list()
                leases = {key: record.lease for key, record in records.items()}
                yield Snapshot(dict(leases), revision)
                backoff.reset()
                async for batch in self._client.watch(self._subnets, revision + 1, previous=False):
                    if self._follow(leases, batch):
                        yield Snapshot(dict(leases), batch.events[-1].kv.mod_revision)
            except Expired:
                log.info("etcd has compacted what we watch: reading all leases again")
            except Fault as fault:
                delay = backoff.next()
                log.warning("watching leases: %s; again in %.1f s", fault, delay)
                await asyncio.sleep(delay)

    def _follow(self, leases: dict[str, Lease], batch: WatchBatch) -> bool:
        for event in batch.events:
            key = event.kv.key.removeprefix(self._subnets)
            leases.pop(key, None)
            if event.type == "PUT":
                lease = _decode(key, event.kv.value)
                if lease:
                    leases[key] = lease
        return bool(batch.events)

    async def _list(self) -> tuple[dict[str, _Record], int]:
        listing = await self._client.range(self._subnets)
        records = {}
        for item in listing.items:
            key = item.key.removeprefix(self._subnets)
            lease = _decode(key, item.value)
            if lease:
                records[key] = _Record(lease, item.key, item.value, item.mod_revision, item.lease)
        return records, listing.revision


def _decode(key: str, value: bytes) -> Lease | None:
    try:
        return decode_lease(key, value)
    except Invalid as fault:
        log.warning("ignored: %s", fault)
        return None
