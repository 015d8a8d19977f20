"""How a lease is kept, against a store in memory: renewals that fail, leases that are revoked, stolen and fought over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from flanneld_py import metrics, tenure
from flanneld_py.alloc import choose_subnets
from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import parse_netconf
from flanneld_py.store.port import Held, Snapshot, Standing, Wish
from flanneld_py.tenure import Tenure
from nodecore.errors import Fault, NotFound, Unreachable, UserError
from nodecore.net import Family, IPAddress
from tests.promised import at_some_pace

CONF = parse_netconf('{"Network":"10.5.0.0/16"}')
WISH = Wish(CONF, {Family.IPV4: ip_address("192.168.77.1")}, (), lambda family, before: {"VtepMAC": "02:00:00:00:00:01"})


class MemoryStore:
    """A store of one process: leases by key, a revision, and a trouble to fail with."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds, self.leases, self.revision = seconds, dict[str, Lease](), 0
        self.trouble: Fault | None = None
        self.renewals: list[float] = []
        self.acquired = 0

    async def config(self) -> str | None:
        return None

    async def public_addresses(self) -> Mapping[Family, IPAddress]:
        return {}

    async def preview(self, wish: Wish) -> Lease:
        choice = choose_subnets(wish.conf, list(self.leases.values()), wish.public, wish.previous, lambda count: 0)
        parts = (Part(subnet, wish.public[Family.of(subnet)], wish.data(Family.of(subnet), None)) for subnet in choice.subnets)
        return Lease(tuple(parts), wish.backend)

    async def acquire(self, wish: Wish) -> Held:
        if self.trouble:
            raise self.trouble
        self.acquired += 1
        lease = await self.preview(wish)
        self.put(lease)
        return Held(lease, 7, self.revision, self.seconds)

    async def renew(self, held: Held) -> float:
        self.renewals.append(time.monotonic())
        if self.trouble:
            raise self.trouble
        if held.lease.key not in self.leases:
            raise NotFound("it has ended")
        return self.seconds

    async def announce(self, standing: Standing) -> None:
        return

    async def watch(self) -> AsyncIterator[Snapshot]:
        yield self.snapshot()

    def put(self, lease: Lease) -> None:
        self.leases[lease.key] = lease
        self.revision += 1

    def revoke(self, lease: Lease) -> None:
        del self.leases[lease.key]
        self.revision += 1

    def snapshot(self) -> Snapshot:
        return Snapshot(dict(self.leases), self.revision)


@asynccontextmanager
async def kept(store: MemoryStore, told: list[Standing] | None = None, margin: float = 10.0) -> AsyncIterator[Tenure]:
    made = Tenure(store, WISH, margin, lambda: None, (told if told is not None else []).append)
    await made.begin()
    task = asyncio.create_task(made.run())
    try:
        yield made
        assert not task.done(), task.exception()
    finally:
        task.cancel()


async def until(what: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.005)


async def test_a_renewal_that_failed_is_tried_again_well_before_the_end() -> None:
    async def attempt(pace: float) -> None:
        store = MemoryStore(seconds=1.0 * pace)
        async with kept(store, margin=0.5 * pace) as ours:
            begun = time.monotonic()
            store.trouble = Unreachable("cut off")
            await until(lambda: len(store.renewals) >= 2)
            assert store.renewals[1] - begun < 0.9 * pace, "before the lease would have ended"
            store.trouble = None
            await until(lambda: len(store.renewals) >= 3)
            assert ours.ends is not None
            assert ours.ends > store.renewals[2] + 0.9 * pace

    await at_some_pace(attempt)


async def test_a_lost_lease_is_taken_back_and_told(caplog: pytest.LogCaptureFixture) -> None:
    store, told = MemoryStore(), list[Standing]()
    async with kept(store, told) as ours:
        before, counted = ours.lease, metrics.counts()["lease_lost"]
        store.revoke(before)
        ours.see(store.snapshot())
        await until(lambda: store.acquired == 2)
        assert ours.lease == before
        assert metrics.counts()["lease_lost"] == counted + 1
        assert "our lease 10.5.1.0-24 is gone: revoked" in caplog.text
        await until(lambda: told)
        assert [standing.works for standing in told] == [True]
        assert "taken back" in told[0].message


async def test_while_it_cannot_be_taken_back_everything_stays_and_everybody_is_told() -> None:
    """Not even a mistake of the user's ends a daemon that carries traffic."""
    store, told = MemoryStore(), list[Standing]()
    async with kept(store, told) as ours:
        before = ours.lease
        store.revoke(before)
        store.trouble = UserError("podCIDR 10.6.1.0/24 is not inside 10.5.0.0/16")
        ours.see(store.snapshot())
        await until(lambda: told)
        assert (told[0].works, told[0].reason) == (False, "FlannelLeaseLost")
        assert "10.6.1.0/24 is not inside" in told[0].message
        assert ours.lease == before
        store.trouble = None
        await until(lambda: len(told) == 2)
        assert told[1].works


async def test_a_stolen_lease_makes_way_for_another_subnet() -> None:
    store = MemoryStore()
    async with kept(store) as ours:
        thief = replace(ours.lease, parts=(replace(ours.lease.parts[0], public_ip=ip_address("192.168.77.9")),))
        store.put(thief)
        ours.see(store.snapshot())
        await until(lambda: ours.lease.parts[0].subnet == ip_network("10.5.2.0/24"))
        assert store.leases[thief.key] == thief


async def test_two_nodes_with_one_address_do_not_run_in_circles(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vagrant's 10.0.2.15: whoever writes last wins, ever more slowly, and the log says what to do."""
    monkeypatch.setattr(tenure, "RETRY", 60.0)
    store = MemoryStore()
    async with kept(store) as ours:
        other = replace(ours.lease, parts=(replace(ours.lease.parts[0], data={"VtepMAC": "02:00:00:00:00:02"}),))
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            if store.leases[other.key] != other:
                store.put(other)
            ours.see(store.snapshot())
            await asyncio.sleep(0.002)
        assert store.acquired <= 4
        assert "another node registers our address (192.168.77.1)" in caplog.text


async def test_trouble_is_told_once_and_not_at_every_try(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    store.trouble = Unreachable("etcd at 127.0.0.1:1: connection refused")
    made = Tenure(store, WISH, 10.0, lambda: None)
    task = asyncio.create_task(made.begin())
    await asyncio.sleep(0.7)
    store.trouble = None
    await asyncio.wait_for(task, 60)
    assert caplog.text.count("connection refused") == 1
