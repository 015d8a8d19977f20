"""What a pass does: the same from what it remembers as from nothing, and no reading without a reason."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from flanneld_py.backends.choice import PARSERS, parse_backend
from flanneld_py.backends.hostgw import HostGwBackend
from flanneld_py.backends.port import Backend
from flanneld_py.backends.vxlan import VxlanBackend
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import parse_netconf
from flanneld_py.plan import Features, Inputs
from flanneld_py.target import NodeTarget
from nodecore.kernel.diff import Put, Remove
from nodecore.kernel.fake import FakeNetwork
from nodecore.kernel.model import Address, Link, NetState, Route, Scope
from nodecore.net import Family

CONF = parse_netconf('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}')
ADDRESSES = {Family.IPV4: ip_address("192.168.77.1")}
UNDERLAY = Underlay("eth0", 1500, ADDRESSES, ADDRESSES, (ip_network("192.168.77.0/24"),))


def lease(number: int, mac: int, backend: str = "vxlan", host: int | None = None) -> Lease:
    data = {"VNI": 1, "VtepMAC": f"02:00:00:00:00:{mac:02x}"}
    return Lease((Part(ip_network(f"10.5.{number}.0/24"), ip_address(f"192.168.77.{host or number}"), data),), backend)


OWN = lease(1, 1)


class Counting(FakeNetwork):
    """A network that counts how often it is read."""

    reads = 0

    async def read(self, scope: Scope) -> NetState:
        self.reads += 1
        return await super().read(scope)


class World:
    def __init__(self, backend: Backend) -> None:
        self.network = Counting(Link("eth0", mtu=1500, mac="02:00:00:00:aa:01"))
        self.inputs = Inputs(CONF, backend, UNDERLAY, Features(), OWN)
        self.target = NodeTarget(self.network, lambda: self.inputs)

    async def start(self) -> None:
        await self.network.apply([Put(Address("eth0", ip_address("192.168.77.1"), 24))])

    async def go(self, **changes: object) -> int:
        """One pass with other inputs; how many writes it made."""
        self.inputs = replace(self.inputs, **changes)  # type: ignore[arg-type]
        wanted = self.target.desired()
        ops = self.target.plan(await self.target.observe(wanted), wanted)
        if ops:
            await self.target.apply(ops)
        return len(ops)


CHANGES = st.lists(st.tuples(
    st.dictionaries(st.integers(2, 12), st.integers(2, 9), max_size=8), st.booleans(), st.booleans(),
), max_size=6)


@given(CHANGES)
@settings(max_examples=60, deadline=None)
def test_a_pass_from_memory_does_what_one_from_nothing_would(changes: list[tuple[dict[int, int], bool, bool]]) -> None:
    async def scenario() -> None:
        world, known = World(VxlanBackend()), {}
        await world.start()
        for peers, direct, damage in changes:
            leases = tuple(known.setdefault((n, mac), lease(n, mac)) for n, mac in sorted(peers.items()))
            backend = VxlanBackend(direct_routing=True) if direct else world.inputs.backend
            if damage and world.network.state.routes:
                await world.network.apply([Remove(min(world.network.state.routes, key=lambda route: route.describe()))])
                world.target.doubt()
            await world.go(leases=leases, backend=backend)
            fresh = World(replace(backend))
            await fresh.start()
            await fresh.go(leases=leases)
            assert world.network.dump() == fresh.network.dump()
            assert await world.go() == 0

    asyncio.run(scenario())


async def test_one_peer_more_is_written_without_reading() -> None:
    world = World(VxlanBackend())
    await world.start()
    many = tuple(lease(number, number) for number in range(2, 200))
    assert await world.go(leases=many) == 3 * len(many) + 4
    assert await world.go(leases=(*many, lease(210, 210))) == 3
    assert await world.go(leases=many) == 3
    assert world.network.reads == 1
    world.target.doubt()
    assert await world.go() == 0
    assert world.network.reads == 2


async def test_another_backend_takes_over_and_the_device_goes_last() -> None:
    world = World(VxlanBackend())
    await world.start()
    peers = (lease(2, 2), lease(3, 3))
    await world.go(leases=peers)
    fresh = NodeTarget(world.network, lambda: world.inputs)
    world.inputs = replace(world.inputs, backend=HostGwBackend(), leases=tuple(replace(one, backend="host-gw") for one in peers))
    wanted = fresh.desired()
    ops = fresh.plan(await fresh.observe(wanted), wanted)
    assert [op.describe() for op in ops] == [
        "add route 10.5.2.0/24 via 192.168.77.2 dev eth0", "add route 10.5.3.0/24 via 192.168.77.3 dev eth0",
        "delete link flannel.1",
    ]


async def test_what_another_daemon_of_ours_wrote_is_left_alone() -> None:
    world = World(HostGwBackend())
    await world.start()
    theirs = Route(ip_network("10.6.2.0/24"), "eth0", ip_address("192.168.77.2"))
    stale = Route(ip_network("10.5.9.0/24"), "eth0", ip_address("192.168.77.9"))
    await world.network.apply([Put(theirs), Put(stale)])
    await world.go()
    assert world.network.state.routes == {theirs}
    await world.go(former=(ip_network("10.6.0.0/16"),))
    world.target.doubt()
    await world.go()
    assert world.network.state.routes == frozenset()


def test_every_backend_can_be_asked_for() -> None:
    for name in PARSERS:
        if name not in ("extension", "ipsec"):
            conf = parse_netconf('{"Network":"10.5.0.0/16","Backend":{"Type":"%s"}}' % name)  # noqa: UP031
            assert parse_backend(conf).type == name
