"""What every `Network` keeps to, asked of the fake and of the real kernel alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import pytest

from nodecore.errors import AlreadyExists, NotFound, Unreachable, leaves
from nodecore.kernel.diff import ChangeLink, CreateLink, DeleteLink, Put, Remove, SetSysctl, plan_changes
from nodecore.kernel.fake import FakeNetwork
from nodecore.kernel.model import (
    PROTO_BOOT,
    Address,
    FdbEntry,
    Link,
    Neighbour,
    NetState,
    Route,
    Scope,
    Sysctl,
    Vxlan,
    scope_of,
)
from nodecore.kernel.netlink import KernelNetwork
from nodecore.kernel.netns import Netns
from nodecore.kernel.ports import Network

UNDERLAY = Link("eth0", mtu=1500, mac="02:00:00:00:aa:01")
VXLAN = Vxlan(vni=7, parent="eth0", local=ip_address("192.0.2.1"))
LINK = Link("flannel.7", VXLAN, mtu=1450, mac="02:00:00:00:00:01")
OURS = Address("flannel.7", ip_address("10.5.1.0"), 32)


def peer(number: int) -> NetState:
    mac = f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}"
    subnet = ip_network((f"10.{100 + (number >> 8)}.{number & 255}.0", 24))
    gateway = subnet.network_address
    return NetState(
        neighbours=frozenset({Neighbour("flannel.7", gateway, mac)}),
        fdb=frozenset({FdbEntry("flannel.7", mac, ip_address("192.0.2.9") + number)}),
        routes=frozenset({Route(subnet, "flannel.7", gateway, onlink=True)}),
    )


WANTED = NetState(links=frozenset({LINK}), addresses=frozenset({OURS})) | peer(1) | peer(2)


@dataclass
class World:
    network: Network
    ns: Netns | None = None


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fake":
        network = FakeNetwork(UNDERLAY)
        await network.apply([Put(Address("eth0", ip_address("192.0.2.1"), 24))])
        yield World(network)
        return
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Netns.create() as ns, Netns.create() as far:
        veth = ["address", UNDERLAY.mac, "type", "veth", "peer", "name", "eth0", "netns", str(far.pid)]
        ns.run(["ip", "link", "add", "eth0", *veth])
        far.run(["ip", "link", "set", "eth0", "up"])
        ns.run(["ip", "link", "set", "eth0", "up"])
        ns.run(["ip", "addr", "add", "192.0.2.1/24", "dev", "eth0"])
        real = KernelNetwork(ns.path)
        yield World(real, ns)
        real.close()


async def converge(network: Network, wanted: NetState) -> None:
    await network.apply(plan_changes(await network.read(scope_of(wanted)), wanted))
    assert plan_changes(await network.read(scope_of(wanted)), wanted) == ()


async def test_converges_from_nothing_and_reads_back_exactly(world: World) -> None:
    await converge(world.network, WANTED)
    assert await world.network.read(scope_of(WANTED)) == WANTED


async def test_a_peer_more_and_a_peer_less(world: World) -> None:
    await converge(world.network, WANTED)
    wanted = NetState(links=frozenset({LINK}), addresses=frozenset({OURS})) | peer(2) | peer(3)
    await converge(world.network, wanted)
    assert await world.network.read(scope_of(wanted)) == wanted


async def test_an_entry_is_replaced_under_its_key(world: World) -> None:
    await converge(world.network, WANTED)
    moved = replace(next(iter(peer(1).fdb)), dst=ip_address("192.0.2.77"))
    wanted = replace(WANTED, fdb=peer(2).fdb | {moved})
    plan = plan_changes(await world.network.read(scope_of(wanted)), wanted)
    assert plan == (Put(moved, replaces=True),)
    await converge(world.network, wanted)


async def test_another_vni_makes_the_device_anew_with_all_that_was_on_it(world: World) -> None:
    await converge(world.network, WANTED)
    wanted = replace(WANTED, links=frozenset({replace(LINK, tunnel=replace(VXLAN, vni=8))}))
    plan = plan_changes(await world.network.read(scope_of(wanted)), wanted)
    assert plan[0] == DeleteLink("flannel.7")
    await converge(world.network, wanted)
    assert await world.network.read(scope_of(wanted)) == wanted


async def test_mtu_and_mac_change_in_place(world: World) -> None:
    await converge(world.network, WANTED)
    wanted = replace(WANTED, links=frozenset({replace(LINK, mtu=1400, mac="02:00:00:00:00:99")}))
    plan = plan_changes(await world.network.read(scope_of(wanted)), wanted)
    assert plan[0] == ChangeLink("flannel.7", mtu=1400, mac="02:00:00:00:00:99")
    await converge(world.network, wanted)


async def test_a_link_that_went_down_comes_back_whole(world: World) -> None:
    await converge(world.network, WANTED)
    await world.network.apply([ChangeLink("flannel.7", up=False)])
    down = await world.network.read(scope_of(WANTED))
    assert not down.routes
    await converge(world.network, WANTED)
    assert await world.network.read(scope_of(WANTED)) == WANTED


async def test_deleting_the_parent_takes_the_device(world: World) -> None:
    await converge(world.network, WANTED)
    await world.network.apply([DeleteLink("eth0")])
    assert await world.network.read(scope_of(WANTED)) == NetState()


async def test_errors_are_gathered_and_do_not_stop_the_rest(world: World) -> None:
    orphan = Route(ip_network("10.9.0.0/24"), "nowhere", ip_address("10.9.0.0"), onlink=True)
    with pytest.raises(ExceptionGroup) as caught:
        await world.network.apply([CreateLink(LINK), Put(orphan), Put(OURS)])
    assert [type(leaf) for leaf in leaves(caught.value)] == [NotFound]
    assert "add route 10.9.0.0/24 via 10.9.0.0 dev nowhere onlink" in str(leaves(caught.value)[0])
    assert (await world.network.read(scope_of(WANTED))).addresses == {OURS}


@pytest.mark.parametrize(("op", "kind"), [
    (CreateLink(replace(LINK, name="flannel.8", tunnel=replace(VXLAN, parent="eth9", vni=8))), NotFound),
    (DeleteLink("flannel.9"), NotFound),
    (ChangeLink("flannel.9", mtu=1300), NotFound),
    (CreateLink(replace(LINK, name="flannel.8", mac="")), AlreadyExists),
    (CreateLink(LINK), AlreadyExists),
    (Put(Route(ip_network("10.9.0.0/24"), "eth0", ip_address("10.9.0.0"))), Unreachable),
], ids=lambda value: value.describe() if hasattr(value, "describe") else value.__name__)
async def test_refusals(world: World, op: object, kind: type) -> None:
    await world.network.apply([CreateLink(LINK)])
    with pytest.raises(ExceptionGroup) as caught:
        await world.network.apply([op])  # type: ignore[list-item]
    assert [type(leaf) for leaf in leaves(caught.value)] == [kind]


async def test_a_route_on_a_downed_link_is_refused(world: World) -> None:
    await world.network.apply([CreateLink(replace(LINK, up=False))])
    with pytest.raises(ExceptionGroup) as caught:
        await world.network.apply([Put(entry) for entry in peer(1).routes])
    assert [type(leaf) for leaf in leaves(caught.value)] == [Unreachable]


async def test_removing_what_is_gone_is_no_error(world: World) -> None:
    await converge(world.network, WANTED)
    gone = peer(9)
    await world.network.apply([Remove(entry) for entry in (*gone.routes, *gone.fdb, *gone.neighbours)])
    assert await world.network.read(scope_of(WANTED)) == WANTED


async def test_only_what_is_ours_is_read(world: World) -> None:
    direct = Route(ip_network("10.8.0.0/24"), "eth0", ip_address("192.0.2.8"))
    foreign = Route(ip_network("10.7.0.0/24"), "eth0", ip_address("192.0.2.8"), protocol=PROTO_BOOT)
    blackhole = Route(ip_network("10.6.0.0/24"))
    await world.network.apply([Put(direct), Put(foreign), Put(blackhole)])
    state = await world.network.read(Scope(links=frozenset({"flannel.7"})))
    assert state.routes == {direct, blackhole}
    named = await world.network.read(Scope(destinations=frozenset({foreign.dst})))
    assert named.routes == {direct, foreign, blackhole}


async def test_a_route_of_another_program_is_taken_over(world: World) -> None:
    await world.network.apply([CreateLink(LINK), Put(OURS)])
    theirs = frozenset(replace(route, protocol=PROTO_BOOT) for route in peer(1).routes)
    await world.network.apply([Put(route) for route in theirs])
    assert (await world.network.read(scope_of(WANTED))).routes == theirs
    await converge(world.network, WANTED)


async def test_ipv6(world: World) -> None:
    link = Link("flannel-v6.7", replace(VXLAN, local=ip_address("2001:db8::1")), mtu=1430, mac="02:00:00:00:00:06")
    gateway = ip_address("fd00:5:2::")
    wanted = NetState(
        links=frozenset({link}),
        addresses=frozenset({Address(link.name, ip_address("fd00:5:1::"), 128)}),
        neighbours=frozenset({Neighbour(link.name, gateway, "02:00:00:00:00:16")}),
        fdb=frozenset({FdbEntry(link.name, "02:00:00:00:00:16", ip_address("2001:db8::2"))}),
        routes=frozenset({Route(ip_network("fd00:5:2::/64"), link.name, gateway, onlink=True)}),
    )
    await converge(world.network, wanted)
    assert await world.network.read(scope_of(wanted)) == wanted


async def test_sysctls_are_part_of_the_state(world: World) -> None:
    name = "net/ipv6/conf/flannel.7/accept_ra"
    wanted = replace(WANTED, sysctls=frozenset({Sysctl(name, "0")}))
    await converge(world.network, wanted)
    await world.network.apply([SetSysctl(Sysctl(name, "1"))])
    assert plan_changes(await world.network.read(scope_of(wanted)), wanted) == (SetSysctl(Sysctl(name, "0")),)
    await converge(world.network, wanted)


async def test_a_device_computes_checksums_itself_when_told(world: World) -> None:
    await converge(world.network, WANTED)
    for deferred in (False, True):
        wanted = replace(WANTED, links=frozenset({replace(LINK, defers_checksums=deferred)}))
        await converge(world.network, wanted)
        (there,) = (await world.network.read(scope_of(wanted))).links
        assert there.defers_checksums is deferred
    if world.ns:
        await converge(world.network, replace(WANTED, links=frozenset({replace(LINK, defers_checksums=False)})))
        assert "tx-checksum-ip-generic: off" in world.ns.run(["ethtool", "-k", "flannel.7"]).stdout


async def test_what_others_change_is_told(world: World) -> None:
    others = KernelNetwork(world.ns.path) if world.ns else world.network
    await converge(world.network, WANTED)
    changes = world.network.changes()
    await anext(changes)
    gone = next(iter(peer(1).fdb))
    for op in (
        Remove(gone), Put(gone), Remove(next(iter(peer(1).neighbours))), Remove(next(iter(peer(1).routes))),
        Put(replace(gone, dst=ip_address("192.0.2.99"))), Put(next(iter(peer(8).neighbours))), Remove(OURS),
        ChangeLink("flannel.7", mtu=1300), ChangeLink("flannel.7", up=False), DeleteLink("flannel.7"),
    ):
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        await others.apply([op])
        async with asyncio.timeout(25):
            await waiting
        await world.network.read(scope_of(WANTED))
    await changes.aclose()  # type: ignore[attr-defined]


async def test_a_device_that_was_not_there_when_last_read_is_news(world: World) -> None:
    await world.network.read(scope_of(WANTED))
    changes = world.network.changes()
    await anext(changes)
    await world.network.apply(plan_changes(NetState(), WANTED))
    async with asyncio.timeout(25):
        await anext(changes)
    await changes.aclose()  # type: ignore[attr-defined]


async def test_the_echo_of_our_own_writes_is_no_news(world: World) -> None:
    if not world.ns:
        pytest.skip("the fake tells everything")
    await converge(world.network, WANTED)
    changes = world.network.changes()
    await anext(changes)
    heard: list[None] = []

    async def listen() -> None:
        async for _ in changes:
            heard.append(None)

    task = asyncio.create_task(listen())
    for number in range(20, 40):
        one = peer(number)
        for kind in (Put, Remove):
            await world.network.apply([kind(entry) for entry in (*one.neighbours, *one.fdb, *one.routes)])
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert heard == []
    task.cancel()


async def test_devices_of_an_earlier_life_are_found_by_name_and_network(world: World) -> None:
    old = replace(LINK, name="flannel.6", mac="02:00:00:00:00:66", tunnel=replace(VXLAN, vni=6))
    theirs = replace(LINK, name="flannel.5", mac="02:00:00:00:00:55", tunnel=replace(VXLAN, vni=5))
    await world.network.apply([
        CreateLink(old), Put(Address("flannel.6", OURS.address, 32)), CreateLink(theirs),
        Put(Address("flannel.5", ip_address("10.99.1.0"), 32)),
        Put(Route(ip_network("10.99.2.0/24"), "flannel.5", ip_address("10.99.2.0"), onlink=True)),
    ])
    scope = scope_of(NetState(), r"flannel\.\d+", (ip_network("10.5.0.0/16"),))
    there = await world.network.read(scope)
    assert ({link.name for link in there.links}, there.routes) == ({"flannel.6"}, frozenset())
    await world.network.apply(plan_changes(there, NetState()))
    assert await world.network.read(scope) == NetState()
    everything = await world.network.read(scope_of(NetState(), r"flannel\.\d+"))
    assert {link.name for link in everything.links} == {"flannel.5"}


@pytest.mark.kernel
async def test_a_thousand_peers_are_written_within_a_fifth_of_a_second(world: World) -> None:
    if not world.ns:
        pytest.skip("a question of the kernel")
    wanted = NetState(links=frozenset({LINK}), addresses=frozenset({OURS}))
    for number in range(1000):
        wanted |= peer(number)
    ops = plan_changes(await world.network.read(scope_of(wanted)), wanted)
    start = asyncio.get_running_loop().time()
    await world.network.apply(ops)
    took = asyncio.get_running_loop().time() - start
    print(f"{len(ops)} operations in {took:.3f} s")
    assert took < 1, f"{len(ops)} operations took {took:.3f} s"
    assert await world.network.read(scope_of(wanted)) == wanted


@pytest.mark.kernel
async def test_an_independent_reader_agrees(world: World) -> None:
    if not world.ns:
        pytest.skip("a question of the kernel")
    await converge(world.network, WANTED)
    link = world.ns.run(["ip", "-d", "link", "show", "flannel.7"]).stdout
    kind = link.partition(" vxlan ")[2]
    for words in ("id 7 ", "local 192.0.2.1 ", "dev eth0 ", "srcport 0 0 ", "dstport 8472 ", "nolearning "):
        assert words in kind, words
    assert "10.100.1.0/24 via 10.100.1.0 dev flannel.7 proto 70 onlink" in world.ns.run(["ip", "route"]).stdout
    assert "10.100.1.0 lladdr 02:00:00:01:00:01 PERMANENT" in world.ns.run(["ip", "neigh", "show", "dev", "flannel.7"]).stdout
    assert "02:00:00:01:00:01 dst 192.0.2.10 self permanent" in world.ns.run(["bridge", "fdb", "show", "dev", "flannel.7"]).stdout
