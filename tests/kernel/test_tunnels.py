"""IPIP and WireGuard devices: messages against the kernel's headers and an independent library, behaviour on fake and kernel."""

from __future__ import annotations

import asyncio
import re
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from nodecore.errors import AlreadyExists, Unsupported, leaves
from nodecore.kernel import linkinfo, wireguard
from nodecore.kernel.batch import attribute, attributes
from nodecore.kernel.diff import ChangeLink, CreateLink, DeleteLink, Put, Remove, plan_changes
from nodecore.kernel.fake import FakeNetwork
from nodecore.kernel.genetlink import GenericSocket
from nodecore.kernel.model import Address, Ipip, Link, NetState, Route, Tun, Vxlan, Wireguard, WireguardPeer, scope_of
from nodecore.kernel.netlink import KernelNetwork
from nodecore.kernel.netns import Netns
from nodecore.kernel.ports import Network
from tests.kernelmodules import lacks, need

KEY, OTHER_KEY, PSK = bytes([8, *range(1, 31), 64]), bytes([16, *range(2, 32), 65]), bytes(range(100, 132))
PUBLIC = [b64encode(bytes([number]) * 32).decode() for number in range(1, 10)]
PEER = WireguardPeer(
    "flannel-wg", PUBLIC[0], (ip_address("192.0.2.2"), 51820),
    frozenset({ip_network("10.5.2.0/24"), ip_network("fd00:5:2::/64")}), 25, PSK,
)
SIX = WireguardPeer("flannel-wg", PUBLIC[1], (ip_address("2001:db8::2"), 51821), frozenset({ip_network("10.5.3.0/24")}))
DEVICE = Link("flannel-wg", Wireguard(KEY, 51820), mtu=1420)
WIREGUARD = NetState(
    links=frozenset({DEVICE}), peers=frozenset({PEER, SIX}),
    addresses=frozenset({Address("flannel-wg", ip_address("10.5.1.0"), 32)}),
    routes=frozenset({Route(ip_network("10.5.0.0/16"), "flannel-wg")}),
)
TUNNEL = Link("flannel.ipip", Ipip(ip_address("192.0.2.1")), mtu=1480)
IPIP = NetState(
    links=frozenset({TUNNEL}), addresses=frozenset({Address("flannel.ipip", ip_address("10.5.1.0"), 32)}),
    routes=frozenset({Route(ip_network("10.5.2.0/24"), "flannel.ipip", ip_address("192.0.2.2"), onlink=True)}),
)


# The numbers are the kernel's


def enum_of(header: str, prefix: str) -> dict[str, int]:
    """The names of one enum of a header, numbered in order."""
    path = Path("/usr/include/linux") / header
    if not path.exists():
        pytest.skip("linux-libc-dev is not installed")
    body = next(body for body in re.findall(r"enum \w*\s*\{(.*?)\};", path.read_text(), re.S) if f"{prefix}UNSPEC" in body)
    return {name.removeprefix(prefix): number for number, name in enumerate(re.findall(r"^\s*(\w+),", body, re.M))}


@pytest.mark.parametrize(("header", "prefix", "module", "ours"), [
    ("wireguard.h", "WGDEVICE_A_", wireguard, {
        "IFNAME": "DEVICE_IFNAME", "PRIVATE_KEY": "DEVICE_PRIVATE_KEY", "LISTEN_PORT": "DEVICE_LISTEN_PORT",
        "PEERS": "DEVICE_PEERS"}),
    ("wireguard.h", "WGPEER_A_", wireguard, {
        "PUBLIC_KEY": "PEER_PUBLIC_KEY", "PRESHARED_KEY": "PEER_PRESHARED_KEY", "FLAGS": "PEER_FLAGS",
        "ENDPOINT": "PEER_ENDPOINT", "PERSISTENT_KEEPALIVE_INTERVAL": "PEER_KEEPALIVE",
        "LAST_HANDSHAKE_TIME": "PEER_LAST_HANDSHAKE", "ALLOWEDIPS": "PEER_ALLOWEDIPS"}),
    ("wireguard.h", "WGALLOWEDIP_A_", wireguard, {
        "FAMILY": "ALLOWED_FAMILY", "IPADDR": "ALLOWED_ADDRESS", "CIDR_MASK": "ALLOWED_LENGTH"}),
    ("if_tunnel.h", "IFLA_IPTUN_", linkinfo, {
        "LOCAL": "IPTUN_LOCAL", "REMOTE": "IPTUN_REMOTE", "TTL": "IPTUN_TTL", "PMTUDISC": "IPTUN_PMTUDISC"}),
    ("if_link.h", "IFLA_TUN_", linkinfo, {"TYPE": "TUN_TYPE", "PERSIST": "TUN_PERSIST", "MULTI_QUEUE": "TUN_MULTI_QUEUE"}),
])
def test_numbers_are_those_of_the_header(header: str, prefix: str, module: Any, ours: dict[str, str]) -> None:
    theirs = enum_of(header, prefix)
    assert {name: getattr(module, own) for name, own in ours.items()} == {name: theirs[name] for name in ours}


# An independent library reads what we write, and we read what it writes


def their_message(body: bytes) -> Any:
    from pyroute2.netlink.generic.wireguard import wgmsg

    message = wgmsg(b"\0" * 16 + b"\1\1\0\0" + body)
    message["header"] = {}
    message.data = (20 + len(body)).to_bytes(4, "little") + bytes(message.data[4:])
    message.decode()
    return message


def text(raw: bytes) -> str:
    return raw.decode()


def test_a_device_as_pyroute2_reads_it() -> None:
    found = their_message(wireguard.pack_device("flannel-wg", Wireguard(KEY, 51820)))
    assert found.get("IFNAME") == "flannel-wg"
    assert b64decode(found.get("PRIVATE_KEY")) == KEY
    assert found.get("LISTEN_PORT") == 51820


@pytest.mark.parametrize("peer", [PEER, SIX], ids=["ipv4", "ipv6"])
def test_a_peer_as_pyroute2_reads_it(peer: WireguardPeer) -> None:
    (message,) = wireguard.pack_peer(peer)
    found = their_message(message)
    (entry,) = found.get("PEERS")
    assert found.get("IFNAME") == "flannel-wg"
    assert text(entry.get("PUBLIC_KEY")) == peer.public_key
    assert b64decode(entry.get("PRESHARED_KEY")) == (peer.psk or bytes(32))
    assert entry.get("PERSISTENT_KEEPALIVE_INTERVAL") == peer.keepalive
    assert entry.get("FLAGS") == 2, "the networks replace those it has, and nothing else is flushed"
    endpoint = entry.get("ENDPOINT")
    assert peer.endpoint
    assert (endpoint["addr"], endpoint["port"]) == (str(peer.endpoint[0]), peer.endpoint[1])
    assert {ip_network(allowed["addr"]) for allowed in entry.get("ALLOWEDIPS")} == peer.allowed


def test_a_removal_as_pyroute2_reads_it() -> None:
    (entry,) = their_message(wireguard.pack_removal(PEER)).get("PEERS")
    assert (text(entry.get("PUBLIC_KEY")), entry.get("FLAGS"), entry.get("ALLOWEDIPS")) == (PEER.public_key, 1, None)


@pytest.mark.parametrize("peer", [PEER, SIX], ids=["ipv4", "ipv6"])
def test_what_pyroute2_writes_as_we_read_it(peer: WireguardPeer) -> None:
    from pyroute2.netlink.generic.wireguard import wgmsg

    assert peer.endpoint
    message = wgmsg()
    allowed = [{"attrs": [
        ("WGALLOWEDIP_A_FAMILY", 2 if network.version == 4 else 10), ("WGALLOWEDIP_A_IPADDR", network.network_address.packed),
        ("WGALLOWEDIP_A_CIDR_MASK", network.prefixlen)]} for network in peer.allowed]
    message["attrs"] = [
        ("WGDEVICE_A_IFNAME", peer.link), ("WGDEVICE_A_PRIVATE_KEY", b64encode(KEY)), ("WGDEVICE_A_LISTEN_PORT", 51820),
        ("WGDEVICE_A_PEERS", [{"attrs": [
            ("WGPEER_A_PUBLIC_KEY", peer.public_key.encode()), ("WGPEER_A_PRESHARED_KEY", b64encode(peer.psk or bytes(32))),
            ("WGPEER_A_ENDPOINT", {"addr": str(peer.endpoint[0]), "port": peer.endpoint[1]}),
            ("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", peer.keepalive), ("WGPEER_A_ALLOWEDIPS", allowed),
        ]}]),
    ]
    message.encode()
    body = bytes(message.data[20:])
    assert wireguard.read_device(body) == Wireguard(KEY, 51820)
    assert [found for found, _ in wireguard.read_peers(peer.link, body)] == [peer]


def test_an_ipip_device_as_pyroute2_reads_it() -> None:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    from nodecore.kernel.messages import new_link

    body = new_link(TUNNEL, 0).body
    message = ifinfmsg((16 + len(body)).to_bytes(4, "little") + b"\x10\0" + b"\0" * 10 + body)
    message.decode()
    info = message.get("LINKINFO")
    data = info.get("IFLA_INFO_DATA")
    assert (message.get("IFNAME"), message.get("MTU"), info.get("IFLA_INFO_KIND")) == ("flannel.ipip", 1480, "ipip")
    assert (data.get("IFLA_IPIP_LOCAL"), data.get("IFLA_IPIP_PMTUDISC"), data.get("IFLA_IPIP_TTL")) == ("192.0.2.1", 0, 0)


def test_a_peer_with_many_networks_goes_in_several_messages() -> None:
    many = replace(PEER, allowed=frozenset(ip_network((0x0A000000 + (n << 8), 24)) for n in range(1200)))
    messages = list(wireguard.pack_peer(many))
    assert max(map(len, messages)) < 65000
    assert len(messages) == 3
    parts = [peer for message in messages for peer, _ in wireguard.read_peers(PEER.link, message)]
    assert frozenset[Any]().union(*(part.allowed for part in parts)) == many.allowed
    entries = [attributes(attributes(attributes(message)[wireguard.DEVICE_PEERS])[0]) for message in messages]
    assert [entry.get(wireguard.PEER_FLAGS) for entry in entries] == [b"\2\0\0\0", None, None]


def test_devices_are_read_as_they_were_written() -> None:
    for tunnel in (TUNNEL.tunnel, Ipip(ip_address("192.0.2.1"), ip_address("192.0.2.9")), Wireguard()):
        assert tunnel
        assert linkinfo.read_info(linkinfo.pack_info(tunnel, 0), {}) == tunnel
    vxlan = Vxlan(7, "eth0", ip_address("192.0.2.1"), gbp=True)
    assert linkinfo.read_info(linkinfo.pack_info(vxlan, 3), {3: "eth0"}) == vxlan
    data = b"".join(attribute(kind, b"\1") for kind in (linkinfo.TUN_TYPE, linkinfo.TUN_PERSIST, linkinfo.TUN_MULTI_QUEUE))
    info = attribute(linkinfo.INFO_KIND, b"tun\0") + attribute(linkinfo.INFO_DATA, data)
    assert linkinfo.read_info(info, {}) == Tun()


def test_secrets_are_in_no_text() -> None:
    secret = [b64encode(raw).decode() for raw in (KEY, PSK)] + [repr(raw)[2:-1] for raw in (KEY, PSK)]
    texts = [f"{thing!r} {thing}" for thing in (PEER, DEVICE, WIREGUARD, ChangeLink("x", tunnel=Wireguard(KEY)))]
    texts += [op.describe() for op in plan_changes(NetState(), WIREGUARD)]
    assert not [(word, line) for word in secret for line in texts if word in line]


# What the kernel does with them, and the fake like it


@dataclass
class World:
    network: Network
    ns: Netns | None = None


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fake":
        yield World(FakeNetwork(Link("eth0", mtu=1500)))
        return
    need("wireguard" if "wireguard" in request.node.name else "ipip")
    with Netns.create() as ns:
        ns.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"])
        ns.run(["ip", "addr", "add", "192.0.2.1/24", "dev", "eth0"])
        ns.run(["ip", "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad"])
        for name in ("eth0", "eth1"):
            ns.run(["ip", "link", "set", name, "up"])
        network = KernelNetwork(ns.path)
        yield World(network, ns)
        network.close()


async def converge(network: Network, wanted: NetState) -> None:
    await network.apply(plan_changes(await network.read(scope_of(wanted)), wanted))
    assert plan_changes(await network.read(scope_of(wanted)), wanted) == ()
    assert await network.read(scope_of(wanted)) == wanted


async def test_ipip_comes_changes_and_goes(world: World) -> None:
    await converge(world.network, IPIP)
    await converge(world.network, replace(IPIP, links=frozenset({replace(TUNNEL, mtu=1400)})))
    moved = replace(TUNNEL, tunnel=Ipip(ip_address("192.0.2.7")))
    plan = plan_changes(await world.network.read(scope_of(IPIP)), replace(IPIP, links=frozenset({moved})))
    assert plan[0] == DeleteLink("flannel.ipip"), "the kernel would change its end, under the routes"
    await converge(world.network, replace(IPIP, links=frozenset({moved})))
    await world.network.apply([DeleteLink("flannel.ipip")])
    assert await world.network.read(scope_of(IPIP)) == NetState()


async def test_ipip_ends_are_taken_once(world: World) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await world.network.apply([CreateLink(TUNNEL), CreateLink(replace(TUNNEL, name="other"))])
    assert [type(leaf) for leaf in leaves(caught.value)] == [AlreadyExists]


async def test_wireguard_comes_changes_and_goes(world: World) -> None:
    await converge(world.network, WIREGUARD)
    rekeyed = replace(DEVICE, tunnel=Wireguard(OTHER_KEY, 51999), mtu=1300)
    wanted = replace(WIREGUARD, links=frozenset({rekeyed}))
    plan = plan_changes(await world.network.read(scope_of(wanted)), wanted)
    assert plan == (ChangeLink("flannel-wg", mtu=1300, tunnel=Wireguard(OTHER_KEY, 51999)),), "in place, the peers stay"
    await converge(world.network, wanted)
    await world.network.apply([DeleteLink("flannel-wg")])
    assert await world.network.read(scope_of(WIREGUARD)) == NetState()


@pytest.mark.parametrize("change", [
    {"endpoint": (ip_address("192.0.2.9"), 51820)}, {"keepalive": 0}, {"psk": b""}, {"psk": bytes(reversed(PSK))},
    {"allowed": frozenset({ip_network("10.5.9.0/24")})}, {"allowed": frozenset()},
], ids=lambda change: next(iter(change)))
async def test_wireguard_peers_are_replaced_one_by_one(world: World, change: dict[str, Any]) -> None:
    await converge(world.network, WIREGUARD)
    changed = replace(PEER, **change)
    wanted = replace(WIREGUARD, peers=frozenset({changed, SIX}))
    assert plan_changes(await world.network.read(scope_of(wanted)), wanted) == (Put(changed, replaces=True),)
    await converge(world.network, wanted)


async def test_wireguard_networks_move_from_peer_to_peer(world: World) -> None:
    await converge(world.network, WIREGUARD)
    heir = replace(PEER, public_key=PUBLIC[5])
    await converge(world.network, replace(WIREGUARD, peers=frozenset({heir, SIX})))
    swapped = frozenset({replace(heir, allowed=SIX.allowed), replace(SIX, allowed=heir.allowed)})
    await converge(world.network, replace(WIREGUARD, peers=swapped))


async def test_wireguard_removing_who_is_gone_is_no_error(world: World) -> None:
    await converge(world.network, WIREGUARD)
    await world.network.apply([Remove(replace(PEER, public_key=PUBLIC[7])), Remove(SIX), Remove(SIX)])
    assert (await world.network.read(scope_of(WIREGUARD))).peers == {PEER}


async def test_wireguard_peers_are_for_wireguard_devices(world: World) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await world.network.apply([Put(replace(PEER, link="eth0"))])
    assert [type(leaf) for leaf in leaves(caught.value)] == [Unsupported]


@pytest.mark.parametrize("command", [
    f"wg set flannel-wg peer {PEER.public_key} remove", "wg set flannel-wg listen-port 4000",
    f"wg set flannel-wg peer {PUBLIC[5]} allowed-ips 10.5.2.0/24,fd00:5:2::/64",
], ids=["removed", "port", "robbed"])
async def test_wireguard_what_others_change_is_news(world: World, command: str) -> None:
    if not world.ns:
        pytest.skip("a question of the kernel")
    await converge(world.network, WIREGUARD)
    changes = world.network.changes()
    await anext(changes)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting := asyncio.ensure_future(anext(changes))), 2.5)
    world.ns.run(command.split())
    async with asyncio.timeout(25):
        await waiting


async def test_wireguard_a_thousand_peers(world: World) -> None:
    if not world.ns:
        pytest.skip("a question of the kernel")
    peers = frozenset(
        WireguardPeer("flannel-wg", b64encode(number.to_bytes(32, "big")).decode(), (ip_address("192.0.2.2"), 1000 + number),
                      frozenset({ip_network((0x0A050000 + (number << 8), 24))})) for number in range(1, 1001))
    start = time.monotonic()
    await converge(world.network, replace(WIREGUARD, peers=peers))
    print(f"1,000 peers: {time.monotonic() - start:.2f} s")


@pytest.mark.kernel
async def test_wireguard_as_its_own_tool_reads_it(world: World) -> None:
    if not world.ns:
        pytest.skip("a question of the kernel")
    await converge(world.network, WIREGUARD)
    lines = world.ns.run(["wg", "show", "flannel-wg", "dump"]).stdout.splitlines()
    private, _, port, _ = lines[0].split("\t")
    assert (b64decode(private), port) == (KEY, "51820")
    told = {(fields := line.split("\t"))[0]: fields[1:] for line in lines[1:]}
    psk, endpoint, allowed, *_, keepalive = told[PEER.public_key]
    assert (b64decode(psk), endpoint, sorted(allowed.split(",")), keepalive) == (
        PSK, "192.0.2.2:51820", ["10.5.2.0/24", "fd00:5:2::/64"], "25")
    assert told[SIX.public_key][:3] == ["(none)", "[2001:db8::2]:51821", "10.5.3.0/24"]


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["wireguard", "ipip"])
async def test_a_kernel_without_the_module_is_told_of(kind: str) -> None:
    if not lacks(kind):
        pytest.skip(f"this kernel has the module {kind}")
    if "root" in lacks(kind):
        pytest.skip("needs root")
    with Netns.create() as ns:
        network = KernelNetwork(ns.path)
        with pytest.raises(ExceptionGroup) as caught:
            await network.apply([CreateLink(DEVICE if kind == "wireguard" else TUNNEL)])
        network.close()
    (fault,) = leaves(caught.value)
    assert isinstance(fault, Unsupported)
    assert f"this kernel has no {kind} (the module {kind} " in str(fault)


@pytest.mark.kernel
def test_generic_netlink_knows_its_families_by_name() -> None:
    with closing(GenericSocket("nlctrl", 2)) as control:
        names = {attributes(body)[2].rstrip(b"\0").decode() for body in control.dump(3, b"")}
    assert "nlctrl" in names
    with pytest.raises(Unsupported, match="this kernel has no nosuch"):
        GenericSocket("nosuch", 1)


def test_the_endpoint_of_a_living_peer_is_the_kernels_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = wireguard.WireguardDevices()
    roamed = replace(PEER, endpoint=(ip_address("198.51.100.9"), 40000))
    monkeypatch.setitem(devices._told, (PEER.link, PEER.public_key), PEER.endpoint)
    assert devices._as_asked(roamed, time.time() - 10) == PEER
    assert devices._as_asked(roamed, time.time() - 1000) == roamed, "silent for long: set it again"
    assert devices._as_asked(replace(SIX, endpoint=None), time.time()).endpoint is None
