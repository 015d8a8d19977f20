"""What every node saw, put into one story: the probe's way and its answer's, hop by hop, and what ended it.

A packet keeps its stamp (TCP sequence number, IPv4 identification) through translation and tunnels: by it the same packet is
known at every interface of every node. The rules it met stand where the packet came in.

Pure. Must not know: how it was seen. Read next: `netscope/drawing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from netscope.directory import Directory
from netscope.flow import Flow
from netscope.headers import Headers, Tunnel
from netscope.records import Hit, Outcome, Report, Seen, Way


@dataclass(frozen=True, slots=True)
class Hop:
    """One thing that happened: a packet at an interface (with the rules it met there), or rules alone."""

    node: str
    time: int
    seen: Seen | None
    hits: tuple[Hit, ...] = ()
    way: Way | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`answered`, `refused`, `dropped`, `lost` or `unsent`; where, why, and the command that would mend it, if one is known."""

    what: str
    where: str = ""
    why: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """The way there, the way back, and how it ended; `lost` packets escaped us."""

    there: tuple[Hop, ...]
    back: tuple[Hop, ...]
    verdict: Verdict
    milliseconds: float
    lost: int


def tell(flow: Flow, reports: Mapping[str, Report], outcome: Outcome, directory: Directory) -> Trace:
    """The whole story."""
    there = _hops(reports, _first(reports, flow, back=False))
    back = _hops(reports, _first(reports, flow, back=True))
    ways = {(node, way.address): way for node, report in reports.items() for way in report.ways}
    verdict = judge(Case(flow, there, back, ways, directory), outcome)
    return Trace(there, back, verdict, outcome.milliseconds, sum(report.lost for report in reports.values()))


def _first(reports: Mapping[str, Report], flow: Flow, *, back: bool) -> Headers | None:
    """The first packet of the flow in one direction that bears the mark; without one, the first whose rules were traced."""
    def marked(headers: Headers) -> bool:
        return (headers.target_port if back else headers.source_port) == flow.mark

    seen = [(each.time, each.headers) for report in reports.values() for each in report.seen if marked(each.headers)]
    if seen:
        return min(seen, key=lambda pair: pair[0])[1]
    return next((hit.headers for report in reports.values() for hit in report.hits if hit.headers and marked(hit.headers)), None)


def _hops(reports: Mapping[str, Report], first: Headers | None) -> tuple[Hop, ...]:
    """Every sight of this packet on every node, with its rules."""
    if first is None:
        return ()
    hops = [hop for node, report in reports.items() for hop in _on_node(node, report, first)]
    return tuple(sorted(hops, key=lambda hop: hop.time))


def _on_node(node: str, report: Report, first: Headers) -> list[Hop]:
    seen = sorted((each for each in report.seen if _same(each.headers, first)), key=lambda each: each.time)
    walks = [tuple(walk) for _, walk in groupby(
        (hit for hit in report.hits if hit.headers and _same(hit.headers, first)), key=lambda hit: hit.packet)]
    ways = {way.address: way for way in report.ways}
    placed: dict[int, tuple[Hit, ...]] = {}
    for walk in walks:
        place = _where_it_came_in(seen, walk[0])
        placed[place] = (*placed.get(place, ()), *walk)
    hops = [Hop(node, 0 if not seen else seen[0].time - 1, None, placed[-1])] if -1 in placed else []
    for place, each in enumerate(seen):
        way = ways.get(each.headers.target) if each.leaving and not each.headers.tunnel else None
        hops.append(Hop(node, each.time, each, placed.get(place, ()), way if way and way.link == each.interface else None))
    return hops


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


@dataclass(frozen=True, slots=True)
class Case:
    """All that a judge looks at; `ways` are by node and address."""

    flow: Flow
    there: tuple[Hop, ...]
    back: tuple[Hop, ...]
    ways: Mapping[tuple[str, str], Way]
    directory: Directory


def judge(case: Case, outcome: Outcome) -> Verdict:
    """What became of it, and who is to blame."""
    if outcome.what == "unsent" or (outcome.what == "unreachable" and not case.there):
        return Verdict("unsent", why=outcome.detail)
    if outcome.what == "answered":
        return Verdict("answered")
    for hop in (*case.there, *case.back):
        for hit in hop.hits:
            if hit.verdict == "drop":
                return _by_rule(hop.node, hit, "refused" if outcome.what == "refused" else "dropped")
    if outcome.what == "refused":
        return Verdict("refused", case.back[0].node if case.back else "", "nobody listens there")
    return _lost(case)


def _by_rule(node: str, hit: Hit, what: str) -> Verdict:
    place = f"{hit.family} {hit.table} {hit.chain}"
    return Verdict(what, node, f"{place}: {hit.rule}", f"nft delete rule {place} handle {hit.handle}" if hit.handle else "")


def _lost(case: Case) -> Verdict:
    """No answer and no rule that said so: the last place it was seen, and what is wrong behind that."""
    last = next((hop for hop in reversed(case.back or case.there) if hop.seen), None)
    if last is None or last.seen is None:
        return Verdict("lost", why="it was seen nowhere: the sender's own routes or rules kept it")
    it, seen = "the answer" if case.back else "it", last.seen
    return Verdict("lost", last.node, _why(case, last.node, seen, it))


def _why(case: Case, node: str, seen: Seen, it: str) -> str:
    ways = _ways_on(case, node, seen.headers)
    if seen.headers.tunnel:
        return _in_the_tunnel(case, seen, seen.headers.tunnel, it)
    if seen.foreign:
        sent_to = _sent_to(case, node, seen)
        return f"{it} came in at {seen.interface} for another MAC{sent_to}: the sender's neighbour entry is wrong"
    if trouble := next((way.trouble for way in ways if way.trouble), ""):
        return trouble
    if seen.leaving:
        wrong = next((words for way in ways if way.host and (words := _wrong_host(case, seen, way.host, it))), "")
        return wrong or f"{it} left {seen.interface} and was seen nowhere after"
    return f"{it} came in at {seen.interface} and went nowhere: forwarding is off, or its source is not believed (rp_filter)"


def _ways_on(case: Case, node: str, headers: Headers) -> list[Way]:
    """How a node would send it on; to whoever is behind the target, as nobody can tell whom it was translated to."""
    asked, *behind = case.flow.ends
    hosts = [end.address for end in behind] if (headers.target, headers.target_port) == (asked.address, asked.port) else []
    return [case.ways[node, address] for address in hosts or [headers.target] if (node, address) in case.ways]


def _in_the_tunnel(case: Case, seen: Seen, tunnel: Tunnel, it: str) -> str:
    if not seen.leaving:
        return (f"{it} came in at {seen.interface} from {tunnel.source} and was not unpacked: the firewall of that host took it, "
                "or there is no such tunnel")
    lost = f"{it} left {seen.interface} for {tunnel.target} and was seen nowhere after: the underlay took it"
    return _wrong_host(case, seen, tunnel.target, it) or lost


def _wrong_host(case: Case, seen: Seen, host: str, it: str) -> str:
    """The words for a tunnel that leads to another node than the target's; empty where it is the right one."""
    target, name = seen.headers.target, case.directory.name_of(host)
    wanted = case.directory.node_of(target)
    if not wanted or name == f"node/{wanted}":
        return ""
    return f"{it} went into the tunnel to {name or host}, but {target} is on {wanted}: the forwarding entry is wrong"


def _sent_to(case: Case, node: str, seen: Seen) -> str:
    """The MACs that the other nodes would send to."""
    target = seen.headers.target
    macs = {way.mac for (other, address), way in case.ways.items() if address == target and other != node and way.mac}
    return f" ({', '.join(sorted(macs))})" if macs else ""
