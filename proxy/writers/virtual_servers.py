"""The part of IPVS mode that nft does not hold: virtual servers, destinations, and the addresses of kube-ipvs0.

What is added is there before the rules that lead to it. What is removed is drained: a destination is given no more
connections (weight 0) and goes when it has none left, its server after it, the address after its last server. So a
connection ends when it ends, not when an endpoint is taken out of its Service. What IPVS is not told the end of goes at once.

Must not know: Services, nft. Read next: `proxy/writers/ipvs.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Protocol

from nodecore.errors import Fault, NotFound, Unsupported, leaves
from nodecore.kernel.diff import CreateLink, DeleteLink, NetOp, Put, Remove
from nodecore.kernel.model import Address, Dummy, Link, Scope
from nodecore.kernel.ports import Network
from nodecore.kernel.virtualserver import Destination, Server, ServerKey, Timeouts
from nodecore.net import Family, IPNetwork

from ..ledger import Delta, Element
from ..render import ipvs as words

log = logging.getLogger(__name__)
DEVICE = Link(words.DEVICE, Dummy(), up=False)  # its addresses are local all the same, and it can send nothing
SCOPE = Scope(links=frozenset({words.DEVICE}))


class Servers(Protocol):
    """IPVS as this needs it."""

    def servers(self) -> list[Server]:
        """All there are."""
        ...

    def destinations(self, servers: Iterable[ServerKey]) -> list[Destination]:
        """Who answers for these."""
        ...

    def put_servers(self, servers: Sequence[Server]) -> list[Fault | None]:
        """Add or change."""
        ...

    def put_destinations(self, destinations: Sequence[Destination]) -> list[Fault | None]:
        """Add or change."""
        ...

    def remove_servers(self, keys: Sequence[ServerKey]) -> list[Fault | None]:
        """Remove with all that is behind them."""
        ...

    def remove_destinations(self, destinations: Sequence[Destination]) -> list[Fault | None]:
        """Remove."""
        ...

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set what is not 0."""
        ...


@dataclass
class _Held:
    """What is in the kernel of one family, as far as we know."""

    servers: set[ServerKey] = field(default_factory=set)  # those that are to go as well
    doomed: set[ServerKey] = field(default_factory=set)
    draining: dict[tuple[ServerKey, str, int], Destination] = field(default_factory=dict)
    addresses: set[str] = field(default_factory=set)  # those that are to go as well
    leaving: set[str] = field(default_factory=set)


class VirtualServers:
    """Those of one family; servers in the networks `excluded` are somebody else's."""

    def __init__(self, family: Family, ipvs: Servers, network: Network, excluded: Sequence[IPNetwork] = ()) -> None:
        self._family, self._ipvs, self._network, self._excluded = family, ipvs, network, excluded
        self._held = _Held()

    async def difference(self, everything: Delta) -> Delta:
        """Look at the kernel: what has to be added and removed there to make it this."""
        self._held = held = _Held()
        made = [server for server in self._ipvs.servers() if self._is_ours(server.key)]
        behind = self._ipvs.destinations(server.key for server in made)
        held.addresses.update(await self._addresses())
        actual = words.elements_of(made, behind, held.addresses)
        held.servers.update(server.key for server in made)
        wanted = {item for item in everything.added if item.container in words.KERNEL}
        keys = {(item.container, item.key) for item in wanted}
        held.doomed = {key for key in held.servers if (words.SERVER, words.text_of(key)) not in keys}
        for item in behind:
            if item.weight == 0 and (words.DESTINATION, words.text_of_destination(item)) not in keys:
                held.draining[item.key] = item
        return Delta(tuple(sorted(actual - wanted)), tuple(sorted(wanted - actual)))

    async def read(self) -> frozenset[Element]:
        """What the kernel has, changing nothing."""
        made = [server for server in self._ipvs.servers() if self._is_ours(server.key)]
        state = await self._network.read(SCOPE)
        bound = [str(item.address) for item in state.addresses if Family.of(item.address) is self._family]
        return words.elements_of(made, self._ipvs.destinations(server.key for server in made), bound)

    def _is_ours(self, key: ServerKey) -> bool:
        return key.family is self._family and not is_within(key, self._excluded)

    async def _addresses(self) -> list[str]:
        """Those of the device, which is made if it is not there."""
        state = await self._network.read(SCOPE)
        if not state.link(words.DEVICE):
            await _apply(self._network, [CreateLink(DEVICE)])
        return [str(item.address) for item in state.addresses if Family.of(item.address) is self._family]

    async def add(self, added: Iterable[Element]) -> None:
        """Make what is new; a destination that was to go, and is back, is given connections again."""
        added = tuple(added)
        servers, destinations = words.servers(added), words.destinations(added)
        _check(self._ipvs.put_servers(servers), [f"server {item.key.describe()} {item.scheduler}" for item in servers])
        _check(self._ipvs.put_destinations(destinations), [_describe(item) for item in destinations])
        held = self._held
        held.servers.update(item.key for item in servers)
        held.doomed.difference_update(item.key for item in servers)
        for item in destinations:
            held.draining.pop(item.key, None)
        addresses = words.addresses(added)
        held.leaving.difference_update(addresses)
        await _apply(self._network, [Put(_address(text)) for text in addresses])
        held.addresses.update(addresses)

    async def drain(self, delta: Delta) -> None:
        """Let go of what was removed."""
        held = self._held
        stay = {item.key for item in words.servers(delta.added)}
        held.doomed.update({item.key for item in words.servers(delta.removed)} - stay)
        gone = words.destinations(delta.removed, weight=0)
        slowly = [item for item in gone if is_told_of_ends(item.server)]
        at_once = [item for item in gone if not is_told_of_ends(item.server)]
        _check(_present(self._ipvs.put_destinations(slowly)), [_describe(item) for item in slowly])
        _check(self._ipvs.remove_destinations(at_once), [_describe(item) for item in at_once])
        held.draining.update((item.key, item) for item in slowly)
        held.leaving.update(words.addresses(delta.removed))
        await self.reap()

    async def reap(self) -> None:
        """Remove what has drained."""
        held = self._held
        if held.draining:
            found = {item.key: item for item in self._ipvs.destinations({item.server for item in held.draining.values()})}
            done = [item for key, item in held.draining.items() if key not in found or not found[key].connections]
            _check(self._ipvs.remove_destinations(done), [_describe(item) for item in done])
            for item in done:
                del held.draining[item.key]
        busy = {item.server for item in held.draining.values()}
        ended = sorted(held.doomed - busy)
        _check(self._ipvs.remove_servers(ended), [f"server {key.describe()}" for key in ended])
        held.doomed.difference_update(ended)
        held.servers.difference_update(ended)
        if held.leaving:
            used = {key.address for key in held.servers}
            free = sorted(held.leaving - used)
            held.leaving.difference_update(free)
            held.addresses.difference_update(free)
            await _apply(self._network, [Remove(_address(text)) for text in free])

    def is_draining(self) -> bool:
        """Whether there is something to look at again."""
        return bool(self._held.draining or self._held.doomed or self._held.leaving)

    async def are_there(self) -> bool:
        """Whether the kernel has the servers and addresses it was given, and no others."""
        servers = {server.key for server in self._ipvs.servers() if self._is_ours(server.key)}
        return servers == self._held.servers and set(await self._addresses()) == self._held.addresses


async def clear(
    ipvs: Servers, network: Network, excluded: Sequence[IPNetwork] = (), spared: Callable[[Destination], bool] = lambda _: False,
) -> list[Destination]:
    """Remove the device and every virtual server; but those with a spared destination stay, without new connections, and it too.

    Returns the spared. If the device is not there, there was no proxy in this mode, and the servers are somebody's.
    """
    left: list[Destination] = []
    if not (await network.read(SCOPE)).link(words.DEVICE):
        return left
    try:
        keys = {server.key for server in ipvs.servers() if not is_within(server.key, excluded)}
        behind = ipvs.destinations(keys)
        left = [item for item in behind if spared(item)]
        stay = {item.server for item in left}
        ipvs.put_destinations([replace(item, weight=0) for item in behind if item.weight and item.server in stay])
        ended = sorted(keys - stay)
        _check(ipvs.remove_servers(ended), [f"server {key.describe()}" for key in ended])
    except Unsupported:
        pass  # a device of that name, and no ip_vs: left from before another kernel
    if not left:
        log.info("removing %s", words.DEVICE)
        await _apply(network, [DeleteLink(words.DEVICE)])
    return left


def lives(item: Destination) -> bool:
    """Whether it has connections that end with it."""
    return bool(item.connections) and is_told_of_ends(item.server)


def is_told_of_ends(key: ServerKey) -> bool:
    """Whether IPVS carries the connections of a server all the way, and so sees their ends.

    UDP has none. What came to a NodePort was translated before it came here: from its second packet on connection tracking
    carries it past IPVS, and it goes on without. Of SCTP's ends nothing is seen then, and it would count for 15 minutes more.
    """
    return key.protocol != "udp" and key.address not in words.STAND_INS


def is_within(key: ServerKey, networks: Sequence[IPNetwork]) -> bool:
    """Whether a server's address is in one of the networks."""
    return any(ip_address(key.address) in network for network in networks)


async def _apply(network: Network, ops: Sequence[NetOp]) -> None:
    try:
        if ops:
            await network.apply(ops)
    except ExceptionGroup as group:
        raise next(leaf for leaf in leaves(group) if isinstance(leaf, Fault)) from None


def _address(text: str) -> Address:
    address = ip_address(text)
    return Address(words.DEVICE, address, address.max_prefixlen)


def _describe(item: Destination) -> str:
    return f"destination {item.describe()} of {item.server.describe()}"


def _present(answers: Iterable[Fault | None]) -> list[Fault | None]:
    return [None if isinstance(fault, NotFound) else fault for fault in answers]


def _check(answers: Sequence[Fault | None], what: Sequence[str]) -> None:
    for fault, name in zip(answers, what, strict=True):
        if fault:
            raise type(fault)(f"ipvs: {name}: {str(fault).removeprefix('netlink: ')}")
