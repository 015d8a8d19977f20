"""IPIP: one device, and one route a peer, which says both which pods are there and where the outer packet goes.

    route  10.5.2.0/24 via <its public IP> dev flannel.ipip onlink

With DirectRouting a peer on our own underlay network gets the same route without the tunnel. IPv4 only, as the protocol.

Pure: options and leases in, kernel records out. Must not know: netlink, etcd. Read next: `nodecore/kernel/diff.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flanneld_py.backends.port import Backend, Memory, peer_parts
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import option
from nodecore.errors import UserError
from nodecore.kernel.model import Address, Ipip, Link, NetState, Route
from nodecore.net import Family

DEVICE = "flannel.ipip"
OVERHEAD = 20  # the outer IPv4 header
MINIMUM = 68  # bytes every IPv4 link must carry


@dataclass(frozen=True)
class IpipBackend(Backend):
    """The backend with its part of the network configuration."""

    type: ClassVar[str] = "ipip"
    families: ClassVar[frozenset[Family]] = frozenset({Family.IPV4})
    devices: ClassVar[str] = r"flannel\.ipip"

    direct_routing: bool = False
    _memory: Memory[NetState] = field(default_factory=Memory, compare=False, repr=False)

    def check(self, underlay: Underlay) -> None:
        """The underlay must have room for the second header."""
        if self.mtu(underlay) < MINIMUM:
            raise UserError(f"interface {underlay.link}: MTU {underlay.mtu} is too small for ipip")

    def mtu(self, underlay: Underlay) -> int:
        """That of the way out less the second IPv4 header."""
        return underlay.mtu - OVERHEAD

    def desired(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> NetState:
        """The device, and one route a peer."""
        made = self._memory.each((own, underlay), leases, lambda lease: self._peers(own, lease, underlay))
        return NetState.union([*(self._device(part, underlay) for part in own.parts), *made])

    def _device(self, part: Part, underlay: Underlay) -> NetState:
        return NetState(
            links=frozenset({Link(DEVICE, Ipip(underlay.addresses[part.family]), self.mtu(underlay))}),
            addresses=frozenset({Address(DEVICE, part.subnet.network_address, part.family.bits)}),
        )

    def _peers(self, own: Lease, lease: Lease, underlay: Underlay) -> NetState:
        return NetState(routes=frozenset(self._route(part, underlay) for part in peer_parts(own, lease, self.type)))

    def _route(self, peer: Part, underlay: Underlay) -> Route:
        assert peer.public_ip
        if self.direct_routing and underlay.reaches(peer.public_ip):
            return Route(peer.subnet, underlay.link, peer.public_ip)
        return Route(peer.subnet, DEVICE, peer.public_ip, onlink=True)


def parse_ipip(raw: Mapping[str, Any]) -> IpipBackend:
    """Read and check the options; raises `UserError` naming the key."""
    return IpipBackend(direct_routing=option(raw, "DirectRouting", bool, False))  # noqa: FBT003
