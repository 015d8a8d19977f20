"""Leases in etcd v3, with Go flanneld's keys and values, so that both can share a network.

    <prefix>/config                          the network configuration
    <prefix>/subnets/10.5.52.0-24            a node's lease; the key hangs on an etcd lease of a day

A subnet is taken by creating its key in a transaction that fails when the key is there; whoever loses a race chooses
again. Keys of two families, or of other lengths, can be different and yet overlap: of two such, the later one makes way.
A key that hangs on no etcd lease is a reservation: it stays one.

Must not know: VXLAN, the kernel. Read next: `nodecore/etcd/client.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from flanneld_py.alloc import choose_subnets, fits, is_ours, known_again
from flanneld_py.lease import Lease, Part, decode_lease, encode_lease
from flanneld_py.store.port import Held, Snapshot, Standing, Wish
from nodecore.errors import Busy, Conflict, Expired, Fault, Invalid, NotFound
from nodecore.etcd.client import EtcdClient, Put, WatchBatch, absent, unchanged
from nodecore.loop.backoff import Backoff
from nodecore.loop.persist import Complaint
from nodecore.net import Family, IPAddress

log = logging.getLogger(__name__)

TTL = 86400
RACES = 100


@dataclass(frozen=True, slots=True)
class _Record:
    """A lease as it stands in etcd."""

    lease: Lease
    key: str
    created: int
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
        self._told: set[str] = set()

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
        """Make a lease ours; races are run again, with the same etcd lease for what may be won."""
        handle = 0
        try:
            for _ in range(RACES):
                records, revision = await self._list()
                lease, record = self._wanted(wish, records)
                handle = handle or (0 if record else await self._client.grant(self._ttl))
                try:
                    held = await (self._keep(lease, record, revision) if record else self._create(lease, handle))
                except (Conflict, NotFound) as lost:
                    log.info("lost a race for subnet %s (%s), choosing again", lease.key, lost)
                    continue
                log.info("%s lease %s", "Keeping" if record else "Allocated", lease.describe())
                spare, handle = handle if handle != held.handle else 0, 0
                await self._give_back(spare)
                await self._remove_misfits(wish, records, keep=lease.key)
                return held
            raise Busy(f"no subnet could be taken: {RACES} races lost")
        except Fault:
            await self._give_back(handle)
            raise

    async def _give_back(self, handle: int) -> None:
        """End an etcd lease that nothing hangs on, so that failing every five seconds does not pile them up."""
        if handle:
            with suppress(Fault):
                await self._client.revoke(handle)

    def _wanted(self, wish: Wish, records: Mapping[str, _Record]) -> tuple[Lease, _Record | None]:
        """The lease to have, and the record it stands in already."""
        leases = [record.lease for record in records.values()]
        held = wish.held or known_again(leases, wish.previous, wish.recognises)
        choice = choose_subnets(wish.conf, leases, wish.public, wish.previous, self._rng.randrange, held)
        old = choice.existing or next((lease for lease in leases if is_ours(lease, wish.public)), None)
        parts = []
        for subnet in choice.subnets:
            family = Family.of(subnet)
            before = old.part(family) if old else None
            parts.append(Part(subnet, wish.public[family], wish.data(family, before)))
        lease = Lease(tuple(parts), wish.backend)
        return lease, next((record for record in records.values() if record.lease is choice.existing), None)

    async def _create(self, lease: Lease, handle: int) -> Held:
        key = self._subnets + lease.key
        done = await self._client.txn([absent(key)], [Put(key, encode_lease(lease), handle)])
        if not done.succeeded:
            raise Conflict("somebody else has taken it")
        records, _ = await self._list()
        if any(record.created < done.revision and _overlap(record.lease, lease) for record in records.values()):
            await self._client.delete(key)
            raise Conflict("somebody else has taken a part of it")
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
        backoff, complaint = Backoff(first=0.1, cap=5.0), Complaint(log, "watching leases")
        while True:
            try:
                records, revision = await self._list()
                leases = {key: record.lease for key, record in records.items()}
                yield Snapshot(dict(leases), revision)
                complaint.settle()
                async for batch in self._client.watch(self._subnets, revision + 1, previous=False):
                    backoff.reset()
                    if self._follow(leases, batch):
                        yield Snapshot(dict(leases), batch.events[-1].kv.mod_revision)
            except Expired:
                log.info("etcd has compacted what we watch: reading all leases again")
            except Fault as fault:
                complaint.tell(fault)
            await asyncio.sleep(backoff.next())

    def _follow(self, leases: dict[str, Lease], batch: WatchBatch) -> bool:
        for event in batch.events:
            lease = self._decode(event.kv.key.removeprefix(self._subnets), event.kv.value)
            if lease and event.type == "PUT":
                leases[lease.key] = lease
            elif lease:
                leases.pop(lease.key, None)
        return bool(batch.events)

    async def _list(self) -> tuple[dict[str, _Record], int]:
        listing = await self._client.range(self._subnets)
        records = {}
        for item in listing.items:
            lease = self._decode(item.key.removeprefix(self._subnets), item.value)
            if lease:
                records[lease.key] = _Record(lease, item.key, item.create_revision, item.mod_revision, item.lease)
        return records, listing.revision

    def _decode(self, key: str, value: bytes) -> Lease | None:
        """The lease; one whose value makes no sense still keeps its subnet from being given to somebody else."""
        try:
            return decode_lease(key, value)
        except Invalid as fault:
            if str(fault) not in self._told:
                log.warning("%s", fault)
            self._told.add(str(fault))
        try:
            return decode_lease(key, b"")
        except Invalid:
            return None


def _overlap(one: Lease, other: Lease) -> bool:
    return any(
        mine.family is theirs.family and mine.subnet.overlaps(theirs.subnet) for mine in one.parts for theirs in other.parts
    )
