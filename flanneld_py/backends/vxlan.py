"""VXLAN: one device a family, and three entries a peer.

    route      10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink     a peer's pods are behind its VTEP
    neighbour  10.5.2.0 lladdr <its VTEP's MAC>                  nobody has to ask by ARP
    fdb        <its VTEP's MAC> dst <its public IP>              and where the outer packet goes

With DirectRouting a peer on our own underlay network gets a plain route by its public address instead.

Pure: options and leases in, kernel records out. Must not know: netlink, etcd. Read next: `nodecore/kernel/diff.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import option
from nodecore.errors import UserError
from nodecore.kernel.model import Address, FdbEntry, Link, Neighbour, NetState, Route, Sysctl, Vxlan
from nodecore.net import Family

TYPE = "vxlan"
KERNEL_PORT = 8472
OVERHEAD = {Family.IPV4: 50, Family.IPV6: 70}  # outer IP, UDP, VXLAN and inner Ethernet headers
DEVICE = {Family.IPV4: "flannel", Family.IPV6: "flannel-v6"}
DEVICE_NAME = re.compile(r"flannel(-v6)?\.\d+")
MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class VxlanOptions:
    """The backend's part of the network configuration."""

    vni: int = 1
    port: int = 0
    mtu: int = 0
    gbp: bool = False
    learning: bool = False
    direct_routing: bool = False

    @property
    def udp_port(self) -> int:
        """Where the outer packets go."""
        return self.port or KERNEL_PORT

    def device(self, family: Family) -> str:
        """The name of the device of a family."""
        return f"{DEVICE[family]}.{self.vni}"


def parse_options(raw: Mapping[str, Any]) -> VxlanOptions:
    """Read and check the options; raises `UserError` naming the key."""
    options = VxlanOptions(
        vni=option(raw, "VNI", int, 1), port=option(raw, "Port", int, 0), mtu=option(raw, "MTU", int, 0),
        gbp=option(raw, "GBP", bool, False),  # noqa: FBT003
        learning=option(raw, "Learning", bool, False),  # noqa: FBT003
        direct_routing=option(raw, "DirectRouting", bool, False),  # noqa: FBT003
    )
    for key, value, low, high in (
        ("VNI", options.vni, 0, (1 << 24) - 1), ("Port", options.port, 0, 65535), ("MTU", options.mtu, 0, 65535)
    ):
        if not low <= value <= high:
            raise UserError(f"network config: Backend.{key}: {value} is not between {low} and {high}")
    return options


def device_mtu(options: VxlanOptions, underlay: Underlay) -> int:
    """The MTU inside: that of the way out less the headers of the widest family."""
    return (options.mtu or underlay.mtu) - max(OVERHEAD[family] for family in underlay.addresses)


def lease_data(options: VxlanOptions, mac: str) -> dict[str, Any]:
    """What peers need to know of us."""
    return {"VNI": options.vni, "VtepMAC": mac}


def vtep_mac(part: Part | None) -> str:
    """The MAC a lease tells, empty where it tells none that makes sense."""
    text = str(part.data.get("VtepMAC", "")).lower() if part else ""
    return text if MAC.fullmatch(text) else ""


def desired_vxlan(own: Lease, leases: Sequence[Lease], options: VxlanOptions, underlay: Underlay) -> NetState:
    """Everything the kernel is to hold of it."""
    state = NetState()
    for part in own.parts:
        device = _device(part, options, underlay)
        peers = sorted(_peers(own, part.family, leases), key=lambda peer: peer.subnet)
        for peer in _distinct(peers):
            device |= _peer(peer, options, underlay)
        state |= device
    return state


def _device(part: Part, options: VxlanOptions, underlay: Underlay) -> NetState:
    name = options.device(part.family)
    vxlan = Vxlan(
        options.vni, underlay.link, underlay.addresses[part.family], options.udp_port, options.gbp, options.learning
    )
    return NetState(
        links=frozenset({Link(name, vxlan, device_mtu(options, underlay), vtep_mac(part))}),
        addresses=frozenset({Address(name, part.subnet.network_address, part.family.bits)}),
        sysctls=frozenset({Sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")}) if underlay.ipv6 else frozenset(),
    )


def _peers(own: Lease, family: Family, leases: Iterable[Lease]) -> Iterator[Part]:
    mine = own.part(family)
    for lease in leases:
        part = lease.part(family)
        if not part or not part.public_ip or not mine or lease.backend != TYPE:
            continue
        if part.public_ip != mine.public_ip and not part.subnet.overlaps(mine.subnet) and vtep_mac(part):
            yield part


def _distinct(peers: Iterable[Part]) -> Iterator[Part]:
    """Of several that tell the same MAC only the first: one of them is lying, and the choice must not waver."""
    seen = set()
    for peer in peers:
        if vtep_mac(peer) not in seen:
            seen.add(vtep_mac(peer))
            yield peer


def _peer(peer: Part, options: VxlanOptions, underlay: Underlay) -> NetState:
    assert peer.public_ip
    if options.direct_routing and underlay.reaches(peer.public_ip):
        return NetState(routes=frozenset({Route(peer.subnet, underlay.link, peer.public_ip)}))
    name, gateway, mac = options.device(peer.family), peer.subnet.network_address, vtep_mac(peer)
    return NetState(
        neighbours=frozenset({Neighbour(name, gateway, mac)}),
        fdb=frozenset({FdbEntry(name, mac, peer.public_ip)}),
        routes=frozenset({Route(peer.subnet, name, gateway, onlink=True)}),
    )


