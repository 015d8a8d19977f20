"""The real `Network`: one network namespace read and written over netlink.

Only what a `Scope` calls ours is read. Writes go out in batches with every answer checked; one that fails does not
keep the others back. Link writes come one by one, since what follows needs the number the kernel gave the link.
`changes` tells what others changed in the last scope read (`nodecore/kernel/echo.py`), and takes an overflowing socket for
a change. Of WireGuard's peers the kernel tells nobody: they are looked at once a second.

Must not know: VXLAN peers, leases, services. Read next: `nodecore/kernel/messages.py`.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby

from nodecore.errors import Busy, Fault, NotFound, Unsupported
from nodecore.kernel import messages as nl
from nodecore.kernel.batch import Message, NetlinkSocket, attribute
from nodecore.kernel.diff import ChangeLink, CreateLink, DeleteLink, NetOp, Put, Remove, SetSysctl
from nodecore.kernel.echo import Ledger
from nodecore.kernel.ethtool import defer_checksums, defers_checksums
from nodecore.kernel.linkinfo import KINDS
from nodecore.kernel.model import (
    Address,
    FdbEntry,
    Link,
    Neighbour,
    NetState,
    Route,
    Scope,
    Sysctl,
    Tun,
    Tunnel,
    Vxlan,
    Wireguard,
    WireguardPeer,
)
from nodecore.kernel.notify import notifications
from nodecore.kernel.sysctl import read_sysctl, write_sysctl
from nodecore.kernel.tun import create_tun
from nodecore.kernel.wireguard import GLANCE, WireguardDevices
from nodecore.net import Family

GROUPS = (1, 3, 5, 7, 9, 11)  # link, neigh (and fdb), IPv4 address and route, IPv6 address and route
TRIES = 5


class KernelNetwork:
    """The network namespace at a path, or our own."""

    def __init__(self, netns: str = "") -> None:
        self._netns = netns
        self._sock = NetlinkSocket(netns)
        self._wireguard = WireguardDevices(netns)
        self._ledger = Ledger(self._sock.port)

    def close(self) -> None:
        """Close the sockets; the network stays as it is."""
        self._sock.close()
        self._wireguard.close()

    async def read(self, scope: Scope) -> NetState:
        """What is there of what is ours; read again when it changed under the hand."""
        for attempt in range(TRIES):
            try:
                return self._read(scope)
            except Busy:
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(0.01)
        raise AssertionError

    def _read(self, scope: Scope) -> NetState:
        names, links = self._links(scope)
        addresses = {index: frozenset(self._addresses(index, names)) for index, link in links.items() if scope.may_own(link.name)}
        found = {
            index: links[index] for index in addresses
            if links[index].name in scope.links or any(scope.is_inside(a.address) for a in addresses[index])
        }
        scope = replace(scope, links=scope.links | {link.name for link in found.values()})
        self._ledger.begin(scope, names, {i: link for i, link in links.items() if i in found or link.name in scope.paths})
        neighbours: set[Neighbour] = set()
        fdb: set[FdbEntry] = set()
        peers: set[WireguardPeer] = set()
        for index, link in found.items():
            if isinstance(link.tunnel, Wireguard):
                device, behind = self._wireguard.read(link.name)
                found[index] = replace(link, tunnel=device)
                peers |= behind
            elif isinstance(link.tunnel, Vxlan):
                found[index] = replace(link, defers_checksums=defers_checksums(link.name, self._netns))
            for entry in self._neighbours(index, names):
                self._ledger.put(entry, index)
                (fdb if isinstance(entry, FdbEntry) else neighbours).add(entry)  # type: ignore[arg-type]
        return NetState(
            links=frozenset(found.values()),
            sysctls=frozenset(
                Sysctl(name, value) for name in scope.sysctls if (value := read_sysctl(name, self._netns)) is not None
            ),
            addresses=frozenset[Address]().union(*[addresses[index] for index in found]),
            neighbours=frozenset(neighbours),
            fdb=frozenset(fdb),
            routes=frozenset(route for route in self._routes(names) if scope.owns_route(route)),
            peers=frozenset(peers),
        )

    def _links(self, scope: Scope) -> tuple[dict[int, str], dict[int, Link]]:
        """The names of all links, and those whole that are ours, may be, or are on our paths."""
        bodies = list(self._sock.dump(nl.RTM_GETLINK, nl.IFINFO.pack(0, 0, 0, 0, 0)))
        names = {index: name for index, name in map(nl.link_name, bodies)}
        found = (
            nl.read_link(body, names) for body, name in zip(bodies, names.values(), strict=True)
            if scope.may_own(name) or name in scope.paths
        )
        return names, dict(found)

    def _addresses(self, index: int, names: dict[int, str]) -> Iterator[Address]:
        for family in Family:
            for body in self._sock.dump(nl.RTM_GETADDR, nl.IFADDR.pack(family.af, 0, 0, 0, index)):
                address = nl.read_address(body, names)
                if address:
                    yield address

    def _neighbours(self, index: int, names: dict[int, str]) -> Iterator[Neighbour | FdbEntry]:
        by_link = attribute(nl.NDA_IFINDEX, struct.pack("=I", index))
        requests = [nl.NDMSG.pack(family.af, 0, 0, 0, 0) + by_link for family in Family]
        requests.append(nl.NDMSG.pack(nl.AF_BRIDGE, index, 0, 0, 0))
        for request in requests:
            for body in self._sock.dump(nl.RTM_GETNEIGH, request):
                entry = nl.read_neighbour(body, names)
                if entry:
                    yield entry

    def _routes(self, names: dict[int, str]) -> Iterator[Route]:
        table = attribute(nl.RTA_TABLE, struct.pack("=I", nl.RT_TABLE_MAIN))
        for family in Family:
            try:
                bodies = list(self._sock.dump(nl.RTM_GETROUTE, nl.RTMSG.pack(family.af, 0, 0, 0, 0, 0, 0, 0, 0) + table))
            except NotFound:
                continue  # the main table of a fresh namespace is made with its first route
            for body in bodies:
                route = nl.read_route(body, names)
                if route:
                    yield route

    async def apply(self, ops: Sequence[NetOp]) -> None:
        """Do them all, gather what fails."""
        faults: list[Fault] = []
        batch: list[Put | Remove] = []
        for op in ops:
            if isinstance(op, Put | Remove):
                batch.append(op)
                continue
            faults += self._entries(batch)
            batch = []
            try:
                self._single(op)
            except Fault as fault:
                faults.append(_named(fault, op))
        faults += self._entries(batch)
        if faults:
            raise ExceptionGroup("kernel writes", faults)

    def _entries(self, ops: Sequence[Put | Remove]) -> list[Fault]:
        if not ops:
            return []
        indexes = self._indexes({op.entry.link for op in ops} - {""})
        missing = [op for op in ops if op.entry.link and op.entry.link not in indexes]
        ready = [op for op in ops if not op.entry.link or op.entry.link in indexes]
        answers = self._write(ready, indexes)
        faults = [_named(NotFound(f"no link {op.entry.link}"), op) for op in missing if isinstance(op, Put)]
        for op, fault in zip(ready, answers, strict=True):
            if fault and not (isinstance(op, Remove) and isinstance(fault, NotFound)):
                faults.append(_named(fault, op))
            elif isinstance(op.entry, Neighbour | FdbEntry):
                note = self._ledger.put if isinstance(op, Put) else self._ledger.remove
                note(op.entry, indexes[op.entry.link])
        return faults

    def _write(self, ops: Sequence[Put | Remove], indexes: Mapping[str, int]) -> list[Fault | None]:
        """Runs of a kind go to whoever knows it, together; one answer each, in order."""
        answers: list[Fault | None] = []
        for which, run in groupby(ops, _recipient):
            entries = list(run)
            if which is None:
                answers += self._sock.send([_message(op, indexes.get(op.entry.link, 0)) for op in entries])
                continue
            peers = [op.entry for op in entries if isinstance(op.entry, WireguardPeer)]
            answers += self._wireguard.put(peers) if which is Put else self._wireguard.remove(peers)
        return answers

    def _single(self, op: CreateLink | DeleteLink | ChangeLink | SetSysctl) -> None:
        match op:
            case CreateLink(link):
                self._create(link)
            case DeleteLink(name):
                self._do(nl.delete_link(self._index(name)))
            case ChangeLink(name, mtu, mac, up, tunnel, checksums):
                if tunnel:
                    self._wireguard.configure(name, tunnel)
                if checksums is not None:
                    defer_checksums(name, self._netns, on=checksums)
                if op != ChangeLink(name, tunnel=tunnel, defers_checksums=checksums):
                    self._do(nl.change_link(self._index(name), mtu=mtu, mac=mac, up=up))
            case SetSysctl(sysctl):
                write_sysctl(sysctl, self._netns)

    def _create(self, link: Link) -> None:
        if isinstance(link.tunnel, Tun):
            create_tun(link.name, self._netns)
            self._do(nl.change_link(self._index(link.name), mtu=link.mtu or None, up=link.up))
            return
        parent = self._index(link.tunnel.parent) if isinstance(link.tunnel, Vxlan) else 0
        try:
            self._do(nl.new_link(link, parent))
        except Unsupported:
            raise Unsupported(_missing(link.tunnel)) from None
        if isinstance(link.tunnel, Wireguard):
            self._wireguard.configure(link.name, link.tunnel)
        if link.defers_checksums is not None:
            defer_checksums(link.name, self._netns, on=link.defers_checksums)
        self._do(nl.change_link(self._index(link.name), up=link.up))

    def _do(self, message: Message) -> None:
        for fault in self._sock.send([message]):
            if fault:
                raise fault

    def _indexes(self, names: Iterable[str]) -> dict[str, int]:
        """The numbers of those that are there: asked for one by one, as a host may have hundreds."""
        found = {}
        for name in names:
            with suppress(NotFound):
                found[name] = self._index(name)
        return found

    def _index(self, name: str) -> int:
        request = nl.IFINFO.pack(0, 0, 0, 0, 0) + attribute(nl.IFLA_IFNAME, name.encode() + b"\0")
        body = self._sock.get(nl.RTM_GETLINK, request, f"link {name}")
        return int(nl.IFINFO.unpack_from(body)[2])

    async def changes(self) -> AsyncIterator[None]:
        """Yields when others changed something of what was in the last scope read."""
        async for data in notifications(self._netns, GROUPS, pause=GLANCE):
            if data is None or self._ledger.is_news(data) or self._wireguard.has_news():
                yield None


def _recipient(op: Put | Remove) -> type[Put | Remove] | None:
    return type(op) if isinstance(op.entry, WireguardPeer) else None


def _message(op: Put | Remove, index: int) -> Message:
    assert not isinstance(op.entry, WireguardPeer)
    return nl.put(op.entry, index) if isinstance(op, Put) else nl.remove(op.entry, index)


def _missing(tunnel: Tunnel | None) -> str:
    kind = KINDS[type(tunnel)] if tunnel else "device of that kind"
    return f"this kernel has no {kind} (the module {kind} is not there or cannot be loaded)"


def _named(fault: Fault, op: NetOp) -> Fault:
    return type(fault)(f"{op.describe()}: {fault}")
