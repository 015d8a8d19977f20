"""host-gw: no tunnel, only routes: a peer's pods are behind its own address, which must be on our underlay network.

    route  10.5.2.0/24 via <its public IP> dev eth0

Pure: leases in, kernel records out. Must not know: netlink, etcd. Read next: `nodecore/kernel/diff.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flanneld_py.backends.port import Backend, Memory, peer_parts
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease
from nodecore.errors import UserError
from nodecore.kernel.model import NetState, Route
from nodecore.net import Family

FLAGS = {Family.IPV4: "--public-ip", Family.IPV6: "--public-ipv6"}


@dataclass(frozen=True)
class HostGwBackend(Backend):
    """The backend; it has no options."""

    type: ClassVar[str] = "host-gw"

    _memory: Memory[NetState] = field(default_factory=Memory, compare=False, repr=False)

    def check(self, underlay: Underlay) -> None:
        """Others reach us without a tunnel, so the address they use must be the interface's own."""
        for family, address in underlay.public.items():
            own = underlay.addresses[family]
            if address != own:
                raise UserError(f"{FLAGS[family]}: host-gw needs the address of {underlay.link} itself, {own}, not {address}")

    def desired(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> NetState:
        """One route a peer."""
        return NetState.union(self._memory.each((own, underlay), leases, lambda lease: self._peer(own, lease, underlay)))

    def _peer(self, own: Lease, lease: Lease, underlay: Underlay) -> NetState:
        return NetState(routes=frozenset(
            Route(part.subnet, underlay.link, part.public_ip)
            for part in peer_parts(own, lease, self.type) if part.public_ip and underlay.reaches(part.public_ip)
        ))

    def remarks(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> Iterator[str]:
        """Peers behind a router cannot be reached this way."""
        for part in (part for lease in leases for part in peer_parts(own, lease, self.type)):
            if part.public_ip and not underlay.reaches(part.public_ip):
                yield (f"no route to {part.subnet}: {part.public_ip} is on no network of {underlay.link}, "
                       "and host-gw needs all nodes on one (vxlan with DirectRouting does not)")


def parse_hostgw(raw: Mapping[str, Any]) -> HostGwBackend:
    """There is nothing to read."""
    return HostGwBackend()
