"""VXLAN: one device a family, and three entries a peer.

    route      10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink     a peer's pods are behind its VTEP
    neighbour  10.5.2.0 lladdr <its VTEP's MAC>                  nobody has to ask by ARP
    fdb        <its VTEP's MAC> dst <its public IP>              and where the outer packet goes

With DirectRouting a peer on our own underlay network gets a plain route by its public address instead.

Pure: options and leases in, kernel records out. Must not know: netlink, etcd. Read next: `nodecore/kernel/diff.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flanneld_py.backends.port import Backend, Memory, peer_parts
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import option
from nodecore.errors import UserError
from nodecore.kernel.model import Address, FdbEntry, Link, Neighbour, NetState, Route, Sysctl, Vxlan
from nodecore.net import Family

KERNEL_PORT = 8472
OVERHEAD = {Family.IPV4: 50, Family.IPV6: 70}  # outer IP, UDP, VXLAN and inner Ethernet headers
DEVICE = {Family.IPV4: "flannel", Family.IPV6: "flannel-v6"}
MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")

Peer = tuple[str, Part, NetState]  # its MAC, what its lease says, what to hold for it


@dataclass(frozen=True)
class VxlanBackend(Backend):
    """The backend with its part of the network configuration."""

    type: ClassVar[str] = "vxlan"
    devices: ClassVar[str] = r"flannel(-v6)?\.\d+"

    vni: int = 1
    port: int = 0
    external_mtu: int = 0
    gbp: bool = False
    learning: bool = False
    direct_routing: bool = False
    defers_checksums: bool | None = None
    _memory: Memory[tuple[Peer, ...]] = field(default_factory=Memory, compare=False, repr=False)

    @property
    def udp_port(self) -> int:
        """Where the outer packets go."""
        return self.port or KERNEL_PORT

    @property
    def untracked_ports(self) -> tuple[int, ...]:
        """The tunnel's."""
        return (self.udp_port,)

    def device(self, family: Family) -> str:
        """The name of the device of a family."""
        return f"{DEVICE[family]}.{self.vni}"

    def mtu(self, underlay: Underlay) -> int:
        """The MTU inside: that of the way out less the headers of the widest family."""
        return (self.external_mtu or underlay.mtu) - max(OVERHEAD[family] for family in underlay.addresses)

    def lease_data(self, family: Family, identity: str) -> Mapping[str, Any]:
        """Our VTEP."""
        return {"VNI": self.vni, "VtepMAC": identity}

    def desired(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> NetState:
        """The devices, and three entries a peer."""
        made = self._memory.each((own, underlay), leases, lambda lease: self._peers(own, lease, underlay))
        states = [self._device(part, underlay) for part in own.parts]
        seen: set[object] = set()  # of several with the same MAC only the first: one is lying, and the choice must not waver
        for mac, part, state in (peer for peers in made for peer in peers):
            names = {(part.family, mac), part.subnet}
            if not names & seen:
                seen |= names
                states.append(state)
        return NetState.union(states)

    def _device(self, part: Part, underlay: Underlay) -> NetState:
        name = self.device(part.family)
        vxlan = Vxlan(self.vni, underlay.link, underlay.addresses[part.family], self.udp_port, self.gbp, self.learning)
        return NetState(
            links=frozenset({Link(name, vxlan, self.mtu(underlay), vtep_mac(part), defers_checksums=self.defers_checksums)}),
            addresses=frozenset({Address(name, part.subnet.network_address, part.family.bits)}),
            sysctls=frozenset({Sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")}) if underlay.ipv6 else frozenset(),
        )

    def _peers(self, own: Lease, lease: Lease, underlay: Underlay) -> tuple[Peer, ...]:
        return tuple(
            (mac, part, self._entries(mac, part, underlay))
            for part in peer_parts(own, lease, self.type) if (mac := vtep_mac(part))
        )

    def _entries(self, mac: str, peer: Part, underlay: Underlay) -> NetState:
        assert peer.public_ip
        if self.direct_routing and underlay.reaches(peer.public_ip):
            return NetState(routes=frozenset({Route(peer.subnet, underlay.link, peer.public_ip)}))
        name, gateway = self.device(peer.family), peer.subnet.network_address
        return NetState(
            neighbours=frozenset({Neighbour(name, gateway, mac)}),
            fdb=frozenset({FdbEntry(name, mac, peer.public_ip)}),
            routes=frozenset({Route(peer.subnet, name, gateway, onlink=True)}),
        )


def parse_vxlan(raw: Mapping[str, Any]) -> VxlanBackend:
    """Read and check the options; raises `UserError` naming the key."""
    backend = VxlanBackend(
        vni=option(raw, "VNI", int, 1), port=option(raw, "Port", int, 0), external_mtu=option(raw, "MTU", int, 0),
        gbp=option(raw, "GBP", bool, False),  # noqa: FBT003
        learning=option(raw, "Learning", bool, False),  # noqa: FBT003
        direct_routing=option(raw, "DirectRouting", bool, False),  # noqa: FBT003
    )
    for key, value, low, high in (
        ("VNI", backend.vni, 0, (1 << 24) - 1), ("Port", backend.port, 0, 65535), ("MTU", backend.external_mtu, 0, 65535)
    ):
        if not low <= value <= high:
            raise UserError(f"network config: Backend.{key}: {value} is not between {low} and {high}")
    return backend


def vtep_mac(part: Part | None) -> str:
    """The MAC a lease tells, empty where it tells none that makes sense."""
    text = str(part.data.get("VtepMAC", "")).lower() if part else ""
    return text if MAC.fullmatch(text) else ""
