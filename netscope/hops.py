"""A packet's hops: every sight of it on every node, with the rules it met there and the reason for the next hop.

A packet keeps its stamp (TCP sequence number, IPv4 identification) through translation and tunnels: by it the same packet is
known at every interface of every node. The rules it met stand where the packet came in.

Pure. Must not know: what a hop means. Read next: `netscope/story.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec

from netscope.elements import element_of
from netscope.headers import Headers
from netscope.records import Connection, Hit, Report, Seen, Way


@dataclass(frozen=True, slots=True)
class Hop:
    """One thing that happened: a packet at an interface (with the rules it met there), or rules alone.

    `tracked` is the entry of connection tracking that it belongs to, once on each node, where it is first seen out of a tunnel.
    """

    node: str
    time: int
    seen: Seen | None
    hits: tuple[Hit, ...] = ()
    way: Way | None = None
    tracked: Connection | None = None


def hops_of(reports: Mapping[str, Report], first: Headers | None) -> tuple[Hop, ...]:
    """Every sight of this packet on every node, with its rules."""
    if first is None:
        return ()
    hops = [hop for node, report in reports.items() for hop in _on_node(node, report, first)]
    return tuple(sorted(hops, key=lambda hop: hop.time))


def _on_node(node: str, report: Report, first: Headers) -> list[Hop]:
    seen = _once(sorted((each for each in report.seen if _same(each.headers, first)), key=lambda each: each.time))
    walks = _walks(report, first)
    ways = {way.address: way for way in report.ways}
    placed: dict[int, tuple[Hit, ...]] = {}
    for walk in walks:
        place = _where_it_came_in(seen, walk[0])
        placed[place] = (*placed.get(place, ()), *(_with_element(hit, seen[max(place, 0) :]) for hit in walk))
    hops = [Hop(node, 0 if not seen else seen[0].time - 1, None, placed[-1])] if -1 in placed else []
    entries = {next((place for place, each in enumerate(seen) if not each.headers.tunnel and entry.is_of(each.headers.ends)), -1):
               entry for entry in report.tracked}
    for place, each in enumerate(seen):
        way = ways.get(each.headers.target) if each.leaving and not each.headers.tunnel else None
        way = way if way and way.link == each.interface else None
        hops.append(Hop(node, each.time, each, placed.get(place, ()), way, entries.get(place)))
    return hops


def _with_element(hit: Hit, seen: Sequence[Seen]) -> Hit:
    """With what became of it by the next sight that looks otherwise."""
    after = next((each.headers for each in seen if hit.headers and each.headers.ends != hit.headers.ends), None)
    found = element_of(hit, after)
    return msgspec.structs.replace(hit, element=found) if found else hit


def _once(sights: Sequence[Seen]) -> list[Seen]:
    """Without those of the same packet sent again."""
    found: dict[tuple[str, bool, Headers], Seen] = {}
    for each in sights:
        found.setdefault((each.interface, each.leaving, each.headers), each)
    return list(found.values())


def _walks(report: Report, first: Headers) -> list[tuple[Hit, ...]]:
    """The rules it met, table after table; not what it met again when it was sent again."""
    walks: dict[tuple[tuple[str, int, str, str], ...], tuple[Hit, ...]] = {}
    mine = (hit for hit in report.hits if hit.headers and _same(hit.headers, first))
    for _, walk in groupby(mine, key=lambda hit: hit.packet):
        hits = tuple(walk)
        walks.setdefault(tuple((hit.family, hit.handle, hit.table, hit.chain) for hit in hits), hits)
    return list(walks.values())


def _where_it_came_in(seen: Sequence[Seen], hit: Hit) -> int:
    """The place in `seen` where the rules found it: untranslated, at their interface or a port of it; -1: it began here."""
    came = [place for place, each in enumerate(seen)
            if not each.leaving and not each.headers.tunnel and hit.headers and each.headers.ends == hit.headers.ends]
    return next((place for place in reversed(came) if seen[place].interface == hit.interface), came[-1] if came else -1)


def _same(headers: Headers, first: Headers) -> bool:
    """By the stamp; IPv6 gives a datagram none, so there both go between the same ports as far as one bears the mark."""
    if (headers.protocol, headers.stamp) != (first.protocol, first.stamp):
        return False
    return bool(first.stamp) or headers.source_port == first.source_port or headers.target_port == first.target_port
