"""From what is there to what is wanted: ordered operations, each of which can say what it does.

The order keeps traffic flowing: links first (what lives on a link needs it), then everything to add or replace, and
only then what is to go. A peer's neighbour and forwarding entries come before its route, so that no packet takes a
route whose next hop is unknown; on the way out the route goes first.

A tunnel device is made anew only when what the kernel cannot change differs (a VXLAN's VNI, parent, local address, port
or GBP, the ends of an IPIP tunnel); whatever was on it counts as gone and is added again in the same plan. WireGuard's
own key and port change in place. A change of MAC flushes the link's neighbours,
permanent ones too: they are added again as well.

Pure. Must not know: netlink. Read next: `nodecore/kernel/ports.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from nodecore.kernel.model import (
    Address,
    Entry,
    FdbEntry,
    Link,
    Neighbour,
    NetState,
    Record,
    Route,
    Sysctl,
    Wireguard,
    WireguardPeer,
)


@dataclass(frozen=True, slots=True)
class CreateLink:
    """Make a device, set it up."""

    link: Link

    def describe(self) -> str:
        """In words."""
        return f"add {self.link.describe()}"


@dataclass(frozen=True, slots=True)
class DeleteLink:
    """Delete a device and all that is on it."""

    name: str

    def describe(self) -> str:
        """In words."""
        return f"delete link {self.name}"


@dataclass(frozen=True, slots=True)
class ChangeLink:
    """Change what can be changed on a living device: None leaves a thing as it is."""

    name: str
    mtu: int | None = None
    mac: str | None = None
    up: bool | None = None
    tunnel: Wireguard | None = None
    defers_checksums: bool | None = None

    def describe(self) -> str:
        """In words."""
        words = [self.tunnel.describe()] if self.tunnel else []
        words += [f"tx-checksumming {'on' if self.defers_checksums else 'off'}"] if self.defers_checksums is not None else []
        words += [f"mtu {self.mtu}"] if self.mtu is not None else []
        words += [f"address {self.mac}"] if self.mac is not None else []
        words += ["up" if self.up else "down"] if self.up is not None else []
        return f"set link {self.name} {' '.join(words)}"


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """Write a value under /proc/sys."""

    sysctl: Sysctl

    def describe(self) -> str:
        """In words."""
        return f"set {self.sysctl.describe()}"


@dataclass(frozen=True, slots=True)
class Put:
    """Add an entry, or replace the one with the same key, without a moment in between."""

    entry: Entry
    replaces: bool = False

    def describe(self) -> str:
        """In words."""
        return f"{'replace' if self.replaces else 'add'} {self.entry.describe()}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Take an entry away; one that is gone already is no error."""

    entry: Entry

    def describe(self) -> str:
        """In words."""
        return f"delete {self.entry.describe()}"


NetOp = CreateLink | DeleteLink | ChangeLink | SetSysctl | Put | Remove
RecordT = TypeVar("RecordT", bound=Record)


def plan_changes(actual: NetState, wanted: NetState) -> tuple[NetOp, ...]:
    """The operations that lead from `actual` to `wanted`.

    Records that both states share as objects cost nothing: only what differs is looked into.
    """
    remade = {link.name for link in wanted.links if needs_remaking(actual.link(link.name), link)}
    links = tuple(_links(actual, wanted, remade))
    gone = {link.name for link in actual.links} - {link.name for link in wanted.links}
    left = without_links(actual, remade | gone)
    readdressed = {op.name for op in links if isinstance(op, ChangeLink) and op.mac}
    if readdressed:
        left = replace(left, neighbours=frozenset(n for n in left.neighbours if n.link not in readdressed))
    puts: list[NetOp] = []
    removals: list[NetOp] = []
    for there, want in (
        (left.addresses, wanted.addresses), (left.neighbours, wanted.neighbours),
        (left.fdb, wanted.fdb), (left.peers, wanted.peers), (left.routes, wanted.routes),
    ):
        kind_puts, kind_removals = _entries(there, want)
        puts += kind_puts
        removals = kind_removals + removals
    sysctls = [SetSysctl(sysctl) for sysctl in _sorted(wanted.sysctls - left.sysctls)]
    return (
        *links, *sysctls, *puts, *removals,
        *(DeleteLink(name) for name in sorted(gone)),
    )


def needs_remaking(there: Link | None, wanted: Link) -> bool:
    """Whether a device exists that must go for the wanted one to be made."""
    if there is None or (isinstance(there.tunnel, Wireguard) and isinstance(wanted.tunnel, Wireguard)):
        return False
    return there.tunnel != wanted.tunnel


def without_links(state: NetState, names: set[str]) -> NetState:
    """What is left when these links go: all that is on a link goes with it."""
    if not names:
        return state
    return replace(
        state,
        links=frozenset(link for link in state.links if link.name not in names),
        sysctls=frozenset(s for s in state.sysctls if not any(f"/{name}/" in s.name for name in names)),
        addresses=frozenset(a for a in state.addresses if a.link not in names),
        neighbours=frozenset(n for n in state.neighbours if n.link not in names),
        fdb=frozenset(f for f in state.fdb if f.link not in names),
        routes=frozenset(r for r in state.routes if r.link not in names),
        peers=frozenset(p for p in state.peers if p.link not in names),
    )


def _links(actual: NetState, wanted: NetState, remade: set[str]) -> Iterable[NetOp]:
    for link in _sorted(wanted.links):
        there = actual.link(link.name)
        if there is None:
            yield CreateLink(link)
        elif link.name in remade:
            yield DeleteLink(link.name)
            yield CreateLink(link)
        else:
            change = ChangeLink(
                link.name,
                mtu=link.mtu if link.mtu not in (0, there.mtu) else None,
                mac=link.mac if link.mac not in ("", there.mac) else None,
                up=link.up if link.up != there.up else None,
                tunnel=link.tunnel if isinstance(link.tunnel, Wireguard) and link.tunnel != there.tunnel else None,
                defers_checksums=link.defers_checksums if link.defers_checksums not in (None, there.defers_checksums) else None,
            )
            if change != ChangeLink(link.name):
                yield change


def _entries(there: frozenset[Entry], want: frozenset[Entry]) -> tuple[list[NetOp], list[NetOp]]:
    missing, odd = want - there, there - want
    replaced = {entry.key for entry in odd} & {entry.key for entry in missing}
    puts: list[NetOp] = [Put(entry, replaces=entry.key in replaced) for entry in _sorted(missing)]
    return puts, [Remove(entry) for entry in _sorted(odd) if entry.key not in replaced]


def _sorted(records: Iterable[RecordT]) -> list[RecordT]:
    return sorted(records, key=_order)


def _order(record: Record) -> tuple[Any, ...]:
    match record:
        case Link():
            return (record.name,)
        case Sysctl():
            return (record.name,)
        case Route():
            return (record.dst.version, int(record.dst.network_address), record.dst.prefixlen, record.metric)
        case Address() | Neighbour():
            return (record.address.version, int(record.address), record.link)
        case FdbEntry():
            return (record.mac, record.link)
        case WireguardPeer():
            return (record.public_key, record.link)
