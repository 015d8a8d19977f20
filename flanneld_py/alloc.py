"""Which subnet this node takes: a pure choice from the leases there are.

    the lease we hold now, or held when we were stopped,
    or else one that has our public address already       a restart keeps its subnet, and so does a new address
    else the subnet we had before, if it is free          the pods on this node keep their addresses
    else a random one of the first hundred free           few collisions when a whole cluster starts at once

The lease we held when we were stopped, under an address that is no longer ours, is known by two things together: it is
for the subnet we had, and it tells a MAC or key that is this node's.

A reservation is a key somebody wrote for our address by hand: it is found by the first rule.
Pure: chance is passed in. Must not know: etcd. Read next: `flanneld_py/store/etcd.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import Block, NetConf
from nodecore.errors import Fault
from nodecore.net import Family, IPAddress, IPNetwork

CANDIDATES = 100
Pick = Callable[[int], int]  # a number below the argument


class OutOfSubnets(Fault):
    """The network is full."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The subnets to take, and the lease to take over where one is ours already."""

    subnets: tuple[IPNetwork, ...]
    existing: Lease | None = None


def choose_subnets(
    conf: NetConf, leases: Sequence[Lease], public: Mapping[Family, IPAddress], previous: Collection[IPNetwork], pick: Pick,
    held: Lease | None = None,
) -> Choice:
    """Decide; raises `OutOfSubnets` when there is none left."""
    ours = [lease for lease in leases if lease == held or is_ours(lease, public)]
    for lease in sorted(ours, key=lambda lease: lease != held):
        if fits(conf, lease):
            return Choice(tuple(part.subnet for part in lease.parts), lease)
    others = [lease for lease in leases if lease not in ours]
    taken = [part.subnet for lease in others for part in lease.parts]
    return Choice(tuple(_choose(block, taken, previous, pick) for block in conf.blocks))


def known_again(
    leases: Iterable[Lease], previous: Collection[IPNetwork], recognises: Callable[[Part], bool]
) -> Lease | None:
    """The lease of our earlier life, whatever address it tells."""
    def is_known(part: Part) -> bool:
        return part.subnet in previous and recognises(part)

    return next((lease for lease in leases if lease.parts and all(map(is_known, lease.parts))), None)


def is_ours(lease: Lease, public: Mapping[Family, IPAddress]) -> bool:
    """Whether a lease has our public address."""
    return any(part.public_ip is not None and part.public_ip == public.get(part.family) for part in lease.parts)


def fits(conf: NetConf, lease: Lease) -> bool:
    """Whether a lease is one this configuration could give out."""
    parts = {part.family: part.subnet for part in lease.parts}
    return parts.keys() == set(conf.families) and all(
        block.allows(parts[Family.of(block.network)]) for block in conf.blocks
    )


def _choose(block: Block, taken: Iterable[IPNetwork], previous: Collection[IPNetwork], pick: Pick) -> IPNetwork:
    ranges = [(int(net.network_address), int(net.broadcast_address)) for net in taken if net.version == block.network.version]
    size = 1 << (block.network.max_prefixlen - block.length)
    exact = {start for start, end in ranges if end - start + 1 == size}
    odd = [(start, end) for start, end in ranges if end - start + 1 != size]

    def free(subnet: IPNetwork) -> bool:
        start, end = int(subnet.network_address), int(subnet.broadcast_address)
        return start not in exact and not any(start <= other_end and other <= end for other, other_end in odd)

    for subnet in previous:
        if block.allows(subnet) and free(subnet):
            return subnet
    found = list(islice(filter(free, block.subnets()), CANDIDATES))
    if not found:
        raise OutOfSubnets(f"out of subnets: every /{block.length} from {block.first} to {block.last} is taken")
    return found[pick(len(found))]
