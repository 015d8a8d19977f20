"""UDP: a TUN device with a route to the whole network, and a program that carries its packets in UDP, as they are.

    route  10.5.0.0/16 dev flannel0        the program, flanneld_py/relay.py, knows which peer has which subnet

What Go flanneld does when no backend is named: slow, and at home on every kernel. Its leases tell no backend, and it
takes every lease for one of its kind, as there is nothing to tell them by. IPv4 only, as there.

The device is called as Go's first is; one on another port has another number, so that several networks can share a host.

Pure: options and leases in, kernel records and peers out. Must not know: the program. Read next: `flanneld_py/attend/udp.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from flanneld_py.backends.port import Backend
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import NetConf, option
from nodecore.errors import UserError
from nodecore.kernel.model import Address, Link, NetState, Route, Tun
from nodecore.net import Family, IPNetwork

PORT = 8285
OVERHEAD = 28  # outer IPv4 and UDP headers
MINIMUM = 68  # bytes every IPv4 link must carry


@dataclass(frozen=True)
class UdpBackend(Backend):
    """The backend with its part of the network configuration, and the network."""

    type: ClassVar[str] = "udp"
    families: ClassVar[frozenset[Family]] = frozenset({Family.IPV4})
    devices: ClassVar[str] = r"flannel\d+"
    attendant: ClassVar[bool] = True

    network: IPNetwork | None = None
    port: int = PORT

    @property
    def lease_type(self) -> str:
        """Nothing."""
        return ""

    @property
    def device(self) -> str:
        """The name of the device."""
        return f"flannel{(self.port - PORT) % 65536}"

    @property
    def untracked_ports(self) -> tuple[int, ...]:
        """The tunnel's."""
        return (self.port,)

    def check(self, underlay: Underlay) -> None:
        """The underlay must have room for the headers."""
        if self.mtu(underlay) < MINIMUM:
            raise UserError(f"interface {underlay.link}: MTU {underlay.mtu} is too small for udp")

    def mtu(self, underlay: Underlay) -> int:
        """That of the way out less the outer headers."""
        return underlay.mtu - OVERHEAD

    def desired(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> NetState:
        """The device and its route."""
        part = own.part(Family.IPV4)
        if not part or not self.network:
            return NetState()
        return NetState(
            links=frozenset({Link(self.device, Tun(), self.mtu(underlay))}),
            addresses=frozenset({Address(self.device, part.subnet.network_address, part.family.bits)}),
            routes=frozenset({Route(self.network, self.device)}),
        )

    def attended(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> tuple[Part, ...]:
        """Who has which subnet."""
        mine = own.part(Family.IPV4)
        peers = {}
        for part in (lease.part(Family.IPV4) for lease in leases):
            if mine and part and part.public_ip not in (None, mine.public_ip) and not part.subnet.overlaps(mine.subnet):
                peers[part.subnet] = Part(part.subnet, part.public_ip)
        return tuple(peers[subnet] for subnet in sorted(peers))


def parse_udp(conf: NetConf) -> UdpBackend:
    """Read and check the options; raises `UserError` naming the key."""
    port = option(conf.options, "Port", int, PORT)
    if not 1 <= port <= 65535:
        raise UserError(f"network config: Backend.Port: {port} is not between 1 and 65535")
    block = conf.block(Family.IPV4)
    return UdpBackend(block.network if block else None, port)
