"""A `Network` in memory that refuses what the kernel refuses.

State is the same frozen records; `apply` holds references to account (a route needs its link up, a gateway on it or
`onlink`; a device's parent must exist; one VNI a port; a network is behind one WireGuard peer), and what lives on a link
goes with it. `dump()` prints it all.
The contract tests (tests/kernel/test_contract.py) run against this and against a real namespace.

Must not know: netlink. Read next: `tests/kernel/test_contract.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from ipaddress import ip_interface

from nodecore.errors import AlreadyExists, Fault, NotFound, Unreachable, Unsupported
from nodecore.kernel.diff import ChangeLink, CreateLink, DeleteLink, NetOp, Put, Remove, SetSysctl, without_links
from nodecore.kernel.model import (
    Address,
    Entry,
    FdbEntry,
    Ipip,
    Link,
    Neighbour,
    NetState,
    Record,
    Route,
    Scope,
    Tun,
    Vxlan,
    Wireguard,
    WireguardPeer,
)

FIELDS = {Address: "addresses", Neighbour: "neighbours", FdbEntry: "fdb", Route: "routes", WireguardPeer: "peers"}


class FakeNetwork:
    """A network namespace with the given links in it (an underlay, say)."""

    def __init__(self, *links: Link) -> None:
        self.state = NetState(links=frozenset(links))
        self.applied: list[NetOp] = []
        self._changed = asyncio.Event()
        self._macs = 0

    async def read(self, scope: Scope) -> NetState:
        """What is there of what is ours."""
        mine = {link.name for link in self.state.links if self._is_mine(link, scope)}
        ours = without_links(self.state, {link.name for link in self.state.links} - mine)
        scope = replace(scope, links=frozenset(mine))
        return replace(
            ours,
            sysctls=frozenset(s for s in self.state.sysctls if s.name in scope.sysctls),
            routes=frozenset(r for r in self.state.routes if scope.owns_route(r)),
        )

    def _is_mine(self, link: Link, scope: Scope) -> bool:
        addresses = [a.address for a in self.state.addresses if a.link == link.name]
        return link.name in scope.links or (scope.may_own(link.name) and any(map(scope.is_inside, addresses)))

    async def apply(self, ops: Sequence[NetOp]) -> None:
        """Do them all, gather what fails."""
        faults: list[Fault] = []
        for op in ops:
            try:
                self._do(op)
            except Fault as fault:
                faults.append(type(fault)(f"{op.describe()}: {fault}"))
            else:
                self.applied.append(op)
        self._changed.set()
        if faults:
            raise ExceptionGroup("fake writes", faults)

    async def changes(self) -> AsyncIterator[None]:
        """Yields after every write."""
        while True:
            yield None
            await self._changed.wait()
            self._changed.clear()

    def dump(self) -> str:
        """Everything, sorted, a line each."""
        s = self.state
        records: tuple[Record, ...] = (*s.links, *s.sysctls, *s.addresses, *s.neighbours, *s.fdb, *s.peers, *s.routes)
        return "".join(sorted(record.describe() + "\n" for record in records))

    def _do(self, op: NetOp) -> None:
        match op:
            case CreateLink(link):
                self._create(link)
            case DeleteLink(name):
                self._must(name)
                children = {x.name for x in self.state.links if isinstance(x.tunnel, Vxlan) and x.tunnel.parent == name}
                self.state = without_links(self.state, {name} | children)
            case ChangeLink(name):
                self._change(self._must(name), op)
            case SetSysctl(sysctl):
                others = {s for s in self.state.sysctls if s.key != sysctl.key}
                self.state = replace(self.state, sysctls=frozenset(others | {sysctl}))
            case Put(entry):
                self._check(entry)
                self._store(entry, add=True)
            case Remove(entry):
                self._store(entry, add=False)

    def _create(self, link: Link) -> None:
        if self.state.link(link.name):
            raise AlreadyExists("File exists")
        self._refuse_twins(link)
        mac = link.mac
        if not mac and not isinstance(link.tunnel, Ipip | Wireguard | Tun):
            self._macs += 1
            mac = f"02:00:00:00:00:{self._macs:02x}"
        made = replace(link, mac=mac, mtu=link.mtu or 1450)
        self.state = replace(self.state, links=self.state.links | {made})

    def _refuse_twins(self, link: Link) -> None:
        wanted = link.tunnel
        if isinstance(wanted, Vxlan):
            self._must(wanted.parent)
        for other in (x.tunnel for x in self.state.links):
            match wanted, other:
                case Vxlan(), Vxlan() if (other.vni, other.port) == (wanted.vni, wanted.port):
                    raise AlreadyExists("A VXLAN device with the specified VNI already exists")
                case Ipip(), Ipip() if other == wanted:
                    raise AlreadyExists("File exists")

    def _change(self, link: Link, op: ChangeLink) -> None:
        changed = replace(
            link, mtu=link.mtu if op.mtu is None else op.mtu, mac=link.mac if op.mac is None else op.mac,
            up=link.up if op.up is None else op.up, tunnel=op.tunnel or link.tunnel,
            defers_checksums=link.defers_checksums if op.defers_checksums is None else op.defers_checksums,
        )
        self.state = replace(self.state, links=self.state.links - {link} | {changed})
        if not changed.up:
            routes = frozenset(r for r in self.state.routes if r.link != link.name)
            self.state = replace(self.state, routes=routes)
        if not changed.up or changed.mac != link.mac:
            neighbours = frozenset(n for n in self.state.neighbours if n.link != link.name)
            self.state = replace(self.state, neighbours=neighbours)

    def _must(self, name: str) -> Link:
        link = self.state.link(name)
        if not link:
            raise NotFound(f"no link {name}")
        return link

    def _check(self, entry: Entry) -> None:
        link = self._must(entry.link) if entry.link else None
        if isinstance(entry, WireguardPeer) and link and not isinstance(link.tunnel, Wireguard):
            raise Unsupported(f"{link.name} is no WireGuard device")
        if isinstance(entry, Route) and link:
            if not link.up:
                raise Unreachable("Network is down")
            if entry.via and not entry.onlink and not self._on_link(entry):
                raise Unreachable("Nexthop has invalid gateway")

    def _on_link(self, route: Route) -> bool:
        return any(
            route.via in ip_interface((a.address, a.prefix)).network and route.via != a.address
            for a in self.state.addresses if a.link == route.link
        )

    def _store(self, entry: Entry, *, add: bool) -> None:
        field = FIELDS[type(entry)]
        kept = {e for e in getattr(self.state, field) if e.key != entry.key}
        if add and isinstance(entry, WireguardPeer):
            kept = {replace(e, allowed=e.allowed - entry.allowed) if e.link == entry.link else e for e in kept}
        changed = frozenset(kept | {entry} if add else kept)
        self.state = replace(self.state, **{field: changed})
