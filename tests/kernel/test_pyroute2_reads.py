"""What our packed structs wrote, read back field by field by a library that shares no code with them: pyroute2.

No test here is a coroutine: pyroute2 runs an event loop of its own in every call.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pyroute2 import IPRoute

from nodecore.kernel.diff import ChangeLink, CreateLink, Put, Remove, plan_changes
from nodecore.kernel.model import Address, FdbEntry, Link, Neighbour, NetState, Route, Vxlan, scope_of
from nodecore.kernel.netlink import KernelNetwork
from nodecore.kernel.netns import Netns

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NAME = "flannel.7"
LINK = Link(NAME, Vxlan(7, "eth0", ip_address("192.0.2.1"), 8472), mtu=1450, mac="02:00:00:00:00:01")
PEERS = range(1, 6)
PERMANENT, NOARP, NTF_SELF, ONLINK = 0x80, 0x40, 0x02, 0x04
BLACKHOLE, PROTO_OURS, MAIN = 6, 70, 254


def mac(number: int) -> str:
    return f"02:00:00:01:00:{number:02x}"


ADDRESSES = frozenset({Address(NAME, ip_address("10.5.1.0"), 32), Address(NAME, ip_address("fd00:5:1::"), 128)})
NEIGHBOURS = frozenset(
    Neighbour(NAME, ip_address(text), mac(n)) for n in PEERS for text in (f"10.5.{n + 1}.0", f"fd00:5:{n + 1:x}::")
)
FDB = frozenset(FdbEntry(NAME, mac(n), ip_address(f"192.0.2.{n + 1}")) for n in PEERS)
VIA = frozenset(
    Route(ip_network(net), NAME, ip_address(net.split("/")[0]), onlink=True)
    for n in PEERS for net in (f"10.5.{n + 1}.0/24", f"fd00:5:{n + 1:x}::/64")
)
PLAIN = frozenset({
    Route(ip_network("10.6.0.0/16"), "eth0", metric=50),
    Route(ip_network("10.7.0.0/16"), "eth0", ip_address("192.0.2.9")),
    Route(ip_network("10.8.0.0/16")),
    Route(ip_network("fd00:8::/32"), metric=77),
})
WANTED = NetState(
    links=frozenset({LINK}), addresses=ADDRESSES, neighbours=NEIGHBOURS, fdb=FDB, routes=VIA | PLAIN,
)


class Reader:
    """pyroute2 in a namespace: the socket is opened inside and stays there."""

    def __init__(self, ns: Netns) -> None:
        with ns.enter():
            self.ipr = IPRoute()

    def index(self, name: str) -> int:
        return int(self.ipr.link_lookup(ifname=name)[0])

    def link(self, name: str) -> Any:
        return self.ipr.get_links(self.index(name))[0]

    def addresses(self) -> frozenset[tuple[str, int]]:
        """Address and prefix length, without what the kernel makes by itself (fe80::)."""
        found = self.ipr.get_addr(index=self.index(NAME))
        return frozenset(
            (a.get_attr("IFA_ADDRESS"), a["prefixlen"]) for a in found if not a.get_attr("IFA_ADDRESS").startswith("fe80:")
        )

    def neighbours(self, family: int) -> list[Any]:
        index = self.index(NAME)
        return [n for n in self.ipr.get_neighbours(family) if n["ifindex"] == index and n["state"] & PERMANENT]

    def fdb(self) -> list[Any]:
        return list(self.ipr.fdb("dump", ifindex=self.index(NAME)))

    def routes(self, family: int) -> dict[tuple[str, int], Any]:
        """By destination in words; the main table's, without those the kernel makes by itself."""
        found = [r for r in self.ipr.get_routes(family) if r["table"] == MAIN and r["proto"] == PROTO_OURS]
        return {(r.get_attr("RTA_DST"), r["dst_len"]): r for r in found}


@pytest.fixture
def ns() -> Iterator[Netns]:
    with Netns.create() as made, Netns.create() as far:
        made.run(f"ip link add eth0 type veth peer name eth0 netns {far.pid}".split())
        far.run(["ip", "link", "set", "eth0", "up"])
        made.run(["ip", "link", "set", "eth0", "up"])
        made.run(["ip", "addr", "add", "192.0.2.1/24", "dev", "eth0"])
        yield made


@pytest.fixture
def ours(ns: Netns) -> Iterator[KernelNetwork]:
    network = KernelNetwork(ns.path)
    yield network
    network.close()


@pytest.fixture
def reader(ns: Netns) -> Iterator[Reader]:
    made = Reader(ns)
    yield made
    made.ipr.close()


@pytest.fixture
def written(ours: KernelNetwork) -> KernelNetwork:
    asyncio.run(ours.apply(plan_changes(asyncio.run(ours.read(scope_of(WANTED))), WANTED)))
    return ours


def test_the_reader_finds_nothing_before(reader: Reader) -> None:
    assert reader.ipr.link_lookup(ifname=NAME) == []
    assert reader.routes(socket.AF_INET) == reader.routes(socket.AF_INET6) == {}


def test_the_device(written: KernelNetwork, reader: Reader) -> None:
    link = reader.link(NAME)
    info = link.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA")
    assert info.get_attr("IFLA_INFO_KIND") == "vxlan"
    assert (link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_MTU"), link.get_attr("IFLA_ADDRESS")) == (NAME, LINK.mtu, LINK.mac)
    assert link["flags"] & 1, "up"
    assert isinstance(LINK.tunnel, Vxlan)
    assert {name: data.get_attr(f"IFLA_VXLAN_{name}") for name in ("ID", "LINK", "LOCAL", "PORT", "LEARNING", "GBP")} == {
        "ID": LINK.tunnel.vni, "LINK": reader.index("eth0"), "LOCAL": str(LINK.tunnel.local), "PORT": LINK.tunnel.port,
        "LEARNING": 0, "GBP": None,
    }


def test_a_device_with_gbp_and_another_port_and_a_change(ours: KernelNetwork, reader: Reader) -> None:
    vxlan = Vxlan(0xFFFFFE, "eth0", ip_address("192.0.2.1"), port=4789, gbp=True)
    asyncio.run(ours.apply([CreateLink(replace(LINK, tunnel=vxlan, up=False))]))
    data = reader.link(NAME).get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    assert (data.get_attr("IFLA_VXLAN_ID"), data.get_attr("IFLA_VXLAN_PORT")) == (0xFFFFFE, 4789)
    assert data.get_attr("IFLA_VXLAN_GBP") is not None
    assert not reader.link(NAME)["flags"] & 1
    asyncio.run(ours.apply([ChangeLink(NAME, mtu=1400, mac=mac(200), up=True)]))
    link = reader.link(NAME)
    assert (link.get_attr("IFLA_MTU"), link.get_attr("IFLA_ADDRESS"), link["flags"] & 1) == (1400, mac(200), 1)


def test_the_addresses(written: KernelNetwork, reader: Reader) -> None:
    assert reader.addresses() == {(str(a.address), a.prefix) for a in ADDRESSES}


def test_the_neighbours(written: KernelNetwork, reader: Reader) -> None:
    for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
        found = reader.neighbours(family)
        assert {n["state"] for n in found} == {PERMANENT}
        assert {(n.get_attr("NDA_DST"), n.get_attr("NDA_LLADDR")) for n in found} == {
            (str(n.address), n.mac) for n in NEIGHBOURS if n.address.version == version
        }


def test_the_forwarding_entries(written: KernelNetwork, reader: Reader) -> None:
    found = reader.fdb()
    assert {(f["state"], f["flags"]) for f in found} == {(PERMANENT | NOARP, NTF_SELF)}
    assert {(f.get_attr("NDA_LLADDR"), f.get_attr("NDA_DST")) for f in found} == {(f.mac, str(f.dst)) for f in FDB}


def test_the_routes(written: KernelNetwork, reader: Reader) -> None:
    found = reader.routes(socket.AF_INET) | reader.routes(socket.AF_INET6)
    wanted = {(str(r.dst.network_address), r.dst.prefixlen): r for r in VIA | PLAIN}
    assert set(found) == set(wanted)
    for key, ours in wanted.items():
        theirs = found[key]
        unset_metric = 1024 if ours.dst.version == 6 else None
        assert theirs["type"] == (1 if ours.link else BLACKHOLE), ours
        assert bool(theirs["flags"] & ONLINK) is ours.onlink, ours
        assert theirs.get_attr("RTA_GATEWAY") == (str(ours.via) if ours.via else None), ours
        assert theirs.get_attr("RTA_PRIORITY") == (ours.metric or unset_metric), ours
        if ours.link:
            assert theirs.get_attr("RTA_OIF") == reader.index(ours.link), ours


def test_what_was_removed_is_gone(written: KernelNetwork, reader: Reader) -> None:
    route = next(r for r in VIA if str(r.dst) == "10.5.2.0/24")
    neighbour = next(n for n in NEIGHBOURS if str(n.address) == "10.5.2.0")
    entry = next(f for f in FDB if f.mac == mac(1))
    address = next(a for a in ADDRESSES if a.address.version == 6)  # with its last IPv4 address a device loses its routes
    asyncio.run(written.apply([Remove(one) for one in (route, entry, neighbour, address)]))
    assert {key[0] for key in reader.routes(socket.AF_INET)} == {
        str(r.dst.network_address) for r in (VIA | PLAIN) - {route} if r.dst.version == 4
    }
    assert {n.get_attr("NDA_DST") for n in reader.neighbours(socket.AF_INET)} == {
        str(n.address) for n in NEIGHBOURS - {neighbour} if n.address.version == 4
    }
    assert {f.get_attr("NDA_LLADDR") for f in reader.fdb()} == {f.mac for f in FDB - {entry}}
    assert reader.addresses() == {(str(a.address), a.prefix) for a in ADDRESSES - {address}}


def test_a_replaced_entry_is_one_entry(written: KernelNetwork, reader: Reader) -> None:
    moved = FdbEntry(NAME, mac(1), ip_address("192.0.2.99"))
    other = Neighbour(NAME, ip_address("10.5.2.0"), mac(99))
    asyncio.run(written.apply([Put(moved, replaces=True), Put(other, replaces=True)]))
    assert [f.get_attr("NDA_DST") for f in reader.fdb() if f.get_attr("NDA_LLADDR") == mac(1)] == ["192.0.2.99"]
    found = [n.get_attr("NDA_LLADDR") for n in reader.neighbours(socket.AF_INET) if n.get_attr("NDA_DST") == "10.5.2.0"]
    assert found == [mac(99)]


def test_what_pyroute2_writes_we_read(written: KernelNetwork, reader: Reader) -> None:
    """The other way round."""
    index = reader.index(NAME)
    reader.ipr.neigh("replace", dst="10.5.77.0", lladdr=mac(77), ifindex=index, state=PERMANENT)
    reader.ipr.fdb("append", ifindex=index, lladdr=mac(77), dst="192.0.2.77")
    reader.ipr.route("replace", dst="10.5.77.0/24", gateway="10.5.77.0", oif=index, flags=ONLINK, proto=PROTO_OURS)
    there = asyncio.run(written.read(scope_of(WANTED)))
    assert there.neighbours - NEIGHBOURS == {Neighbour(NAME, ip_address("10.5.77.0"), mac(77))}
    assert there.fdb - FDB == {FdbEntry(NAME, mac(77), ip_address("192.0.2.77"))}
    assert there.routes - VIA - PLAIN == {
        Route(ip_network("10.5.77.0/24"), NAME, ip_address("10.5.77.0"), onlink=True)
    }
