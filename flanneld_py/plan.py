"""All this node should hold, from all the agent knows: the whole decision of the daemon in one place.

    Inputs (own lease, all leases, configuration, backend, underlay, flags)
      -> desired() -> Desired (kernel records, peers an attendant serves)
      -> plan_node(Observed, Desired) -> operations
      -> desired_traffic() -> Wanted (traffic rules: flanneld_py/rules.py writes them)

Pure. Must not know: where leases come from, who writes. Read next: `flanneld_py/backends/port.py`, `flanneld_py/masq.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from flanneld_py.backends.choice import DEVICES
from flanneld_py.backends.port import Backend
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part
from flanneld_py.masq import Wanted, desired_rules
from flanneld_py.netconf import NetConf
from nodecore.kernel.diff import NetOp, plan_changes
from nodecore.kernel.model import NetState, Route, Sysctl
from nodecore.net import Family, IPAddress, IPNetwork

NOBODYS = IPv4Address("10.0.2.15")  # every machine's address behind VirtualBox's and QEMU's own address translation
FORWARDING = {Family.IPV4: "net/ipv4/ip_forward", Family.IPV6: "net/ipv6/conf/all/forwarding"}


@dataclass(frozen=True, slots=True)
class Features:
    """What the flags switch."""

    ip_masq: bool = False
    fully_random: bool = True
    forward_rules: bool = True
    blackhole_route: bool = False


@dataclass(frozen=True, slots=True)
class Inputs:
    """All the agent knows."""

    conf: NetConf
    backend: Backend
    underlay: Underlay
    features: Features
    own: Lease
    leases: Sequence[Lease] = ()
    former: tuple[IPNetwork, ...] = ()  # the networks of an earlier life

    @property
    def scope(self) -> tuple[str, tuple[IPNetwork, ...]]:
        """What is ours by its looks: devices of any backend and routes of our protocol, inside these networks."""
        return DEVICES, (*(block.network for block in self.conf.blocks), *self.former)


@dataclass(frozen=True, slots=True)
class Desired:
    """What the node should hold."""

    net: NetState
    serving: Lease | None = None
    peers: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """What it holds."""

    net: NetState
    serving: Lease | None = None
    peers: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class StartServing:
    """Have the attendant be there for a lease of ours."""

    own: Lease

    def describe(self) -> str:
        """In words."""
        return f"start serving peers of {self.own.describe()}"


@dataclass(frozen=True, slots=True)
class AddPeer:
    """Have the attendant serve a peer."""

    peer: Part

    def describe(self) -> str:
        """In words."""
        return f"add peer {self.peer.subnet} at {self.peer.public_ip}"


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Have it serve a peer no longer."""

    peer: Part

    def describe(self) -> str:
        """In words."""
        return f"remove peer {self.peer.subnet} at {self.peer.public_ip}"


PeerOp = StartServing | AddPeer | RemovePeer
NodeOp = NetOp | PeerOp


def desired(inputs: Inputs) -> Desired:
    """Everything, from nothing but the inputs."""
    net = inputs.backend.desired(inputs.own, inputs.leases, inputs.underlay)
    forwarding = {Sysctl(FORWARDING[family], "1") for family in inputs.conf.families}
    blackholes = {Route(part.subnet) for part in inputs.own.parts} if inputs.features.blackhole_route else set()
    return Desired(
        net | NetState(sysctls=frozenset(forwarding), routes=frozenset(blackholes)),
        inputs.own if inputs.backend.attendant else None,
        inputs.backend.attended(inputs.own, inputs.leases, inputs.underlay),
    )


def desired_traffic(conf: NetConf, backend: Backend, features: Features, own: Lease) -> Wanted:
    """The traffic rules of both families; they depend on no peer."""
    sets = []
    for family in Family:
        block, part = conf.block(family), own.part(family)
        sets.append(desired_rules(
            family, block.network if block else None, part.subnet if part else None,
            masquerade=features.ip_masq, forward=features.forward_rules, fully_random=features.fully_random,
            untracked_ports=backend.untracked_ports,
        ))
    return Wanted(tuple(sets), conf.nftables)


def plan_node(observed: Observed, wanted: Desired) -> tuple[NodeOp, ...]:
    """The operations, the network's first."""
    return (*plan_changes(observed.net, wanted.net), *_peer_ops(observed, wanted))


def _peer_ops(observed: Observed, wanted: Desired) -> Iterator[PeerOp]:
    there = observed.peers
    if wanted.serving and wanted.serving != observed.serving:
        yield StartServing(wanted.serving)
        there = ()
    served = {part.subnet: part for part in there}
    subnets = {part.subnet for part in wanted.peers}
    yield from (AddPeer(part) for part in wanted.peers if served.get(part.subnet) != part)
    yield from (RemovePeer(part) for part in there if part.subnet not in subnets)


def remarks(inputs: Inputs) -> Iterator[str]:
    """What the user should be told, once: it works, but hardly as it was meant."""
    for family, address in inputs.underlay.public.items():
        if address == NOBODYS:
            yield (f"{address} is what VirtualBox and QEMU give every machine: peers cannot reach this one by it; "
                   "name another interface with --iface")
        twins = [lease for lease in inputs.leases if lease.key != inputs.own.key and _tells(lease, family, address)]
        if twins:
            yield (f"{address} is our public address, and that of {', '.join(sorted(lease.key for lease in twins)[:3])} as well: "
                   "name another interface with --iface, or an address with --public-ip")
    yield from inputs.backend.remarks(inputs.own, inputs.leases, inputs.underlay)


def _tells(lease: Lease, family: Family, address: IPAddress) -> bool:
    part = lease.part(family)
    return part is not None and part.public_ip == address
