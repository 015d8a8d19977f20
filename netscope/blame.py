"""What became of a probe, and who is to blame: a rule that says so, or what is wrong behind the last place it was seen.

Pure. Must not know: how it was seen. Read next: `netscope/story.py`, which puts the hops in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netscope.directory import Directory
from netscope.facts import Finding
from netscope.flow import Flow
from netscope.headers import Headers, Tunnel
from netscope.hops import Hop
from netscope.records import Hit, Outcome, Seen, Way
from netscope.walk.packet import is_proxys
from nodecore.net import Family, parse_address

RESTART = "systemctl restart kube-proxy"
FORWARDING = {Family.IPV4: "net/ipv4/ip_forward", Family.IPV6: "net/ipv6/conf/all/forwarding"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`answered`, `refused`, `dropped`, `lost` or `unsent`; where, why, and the command that would mend it, if one is known.

    `on` is the node that command is for, where it is another one.
    """

    what: str
    where: str = ""
    why: str = ""
    mend: str = ""
    on: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """All that a judge looks at; `ways` are by node and address, `switches` by node."""

    flow: Flow
    there: Sequence[Hop]
    back: Sequence[Hop]
    ways: Mapping[tuple[str, str], Way]
    switches: Mapping[str, Mapping[str, str]]
    directory: Directory


@dataclass(frozen=True, slots=True)
class Loss:
    """The last place a packet was seen; `it` is what it is called."""

    node: str
    seen: Seen
    it: str


def judge(case: Case, outcome: Outcome) -> Verdict:
    """What became of it, and who is to blame."""
    if outcome.what == "unsent" or (outcome.what == "unreachable" and not case.there):
        return Verdict("unsent", why=outcome.detail)
    if outcome.what == "answered":
        return Verdict("answered")
    for hop in (*case.there, *case.back):
        for hit in hop.hits:
            if hit.verdict == "drop":
                return _by_rule(case, hop.node, hit, "refused" if outcome.what == "refused" else "dropped")
    if outcome.what == "refused":
        return Verdict("refused", case.back[0].node if case.back else "", "nobody listens there")
    return _lost(case)


def _by_rule(case: Case, node: str, hit: Hit, what: str) -> Verdict:
    rule = f"{hit.family} {hit.table} {hit.chain}: {hit.rule}"
    if is_proxys(hit.table, hit.chain):
        return Verdict(what, node, f"{_lacking(case) or 'the Service proxy says so'}, {rule}")
    return Verdict(what, node, rule, _without(hit))


def _lacking(case: Case) -> str:
    """What the Service that was asked for lacks, as far as the API says."""
    asked, *behind = case.flow.ends
    place = next((each for each in case.directory.places if each.kind == "service" and asked.address in each.addresses), None)
    if place is None or behind:
        return ""
    if (case.flow.protocol, asked.port) in place.ports:
        return f"{place} has no endpoints"
    return place.without(case.flow.protocol, asked.port)


def _without(hit: Hit) -> str:
    """The command that takes a rule away, or opens a policy."""
    if hit.family.endswith("-legacy"):
        program = f"{hit.family} -w -t {hit.table}"
        return f"{program} -D {hit.chain} {hit.handle}" if hit.handle else f"{program} -P {hit.chain} ACCEPT"
    place = f"{hit.family} {hit.table} {hit.chain}"
    return f"nft delete rule {place} handle {hit.handle}" if hit.handle else f"nft 'chain {place} {{ policy accept; }}'"


def is_handed_over(hop: Hop, directory: Directory) -> bool:
    """Whether this was the last thing a node could do: to hand it to a pod of its own."""
    seen = hop.seen
    return (seen is not None and seen.leaving and not seen.headers.tunnel and not seen.foreign
            and directory.name_of(seen.headers.target).startswith("pod/") and directory.node_of(seen.headers.target) == hop.node)


def charged(verdict: Verdict, finding: Finding) -> Verdict:
    """A loss, with something that is known to be wrong on its way."""
    on = finding.node if finding.node != verdict.where else ""
    if on and verdict.mend:
        return verdict
    why = f"{verdict.why}; {f'{on}: ' if on else ''}{finding.what} ({finding.evidence})"
    return Verdict(verdict.what, verdict.where, why, finding.fix or verdict.mend, on)


def _lost(case: Case) -> Verdict:
    """No answer and no rule that said so: the last place it was seen, and what is wrong behind that."""
    last = next((hop for hop in reversed(case.back or case.there) if hop.seen), None)
    if last is None or last.seen is None:
        return Verdict("lost", why="it was seen nowhere: the sender's own routes or rules kept it")
    loss = Loss(last.node, last.seen, "the answer" if case.back else "it")
    why, mend = _why(case, loss)
    return Verdict("lost", last.node, why, mend)


def _why(case: Case, loss: Loss) -> tuple[str, str]:
    """The words, and the command, if one is known."""
    seen, ways = loss.seen, _ways_on(case, loss.node, loss.seen.headers)
    if seen.foreign:
        macs = _sent_to(case, loss)
        return f"{loss.it} came in at {seen.interface} for another MAC{macs}: the sender's neighbour entry is wrong", ""
    if seen.headers.tunnel:
        return _in_the_tunnel(case, loss, seen.headers.tunnel)
    troubled = [way for way in (*ways, *_ways_to_hosts(case, loss.node, ways)) if way.trouble]
    if troubled:
        return troubled[0].trouble, troubled[0].mend or _missing_entry(case, seen.headers, troubled[0])
    if seen.leaving:
        return _left(case, loss, ways)
    return _came_in(case, loss)


def _left(case: Case, loss: Loss, ways: Sequence[Way]) -> tuple[str, str]:
    seen = loss.seen
    if words := _untranslated(case, seen.headers):
        return words, "" if _lacking(case) else RESTART
    for way in ways:
        if way.host and (words := _wrong_host(case, loss, way.host)):
            return words, _right_entry(case, loss.node, seen.headers.target)
    name = case.directory.name_of(seen.headers.target)
    if name and case.directory.node_of(seen.headers.target) == loss.node:
        return f"{loss.it} was handed to {name} by {seen.interface}, and {name} said nothing: what runs there keeps it", ""
    return f"{loss.it} left {seen.interface} and was seen nowhere after", ""


def _came_in(case: Case, loss: Loss) -> tuple[str, str]:
    """It went no further than this interface."""
    switches, here = case.switches.get(loss.node, {}), f"{loss.it} came in at {loss.seen.interface} and went nowhere"
    forwarding = FORWARDING[case.flow.family]
    if switches.get(forwarding) == "0":
        return f"{here}: forwarding is off", f"sysctl -w {forwarding}=1"
    names = [f"net/ipv4/conf/{each}/rp_filter" for each in ("all", loss.seen.interface)]
    if any(switches.get(name) == "1" for name in names):
        mend = " ".join(f"{name}=2" for name in names if switches.get(name) == "1")
        return f"{here}: its source is not believed, as the way back is by another link (rp_filter)", f"sysctl -w {mend}"
    if words := _untranslated(case, loss.seen.headers):
        return words, "" if _lacking(case) else RESTART
    return f"{here}: no route leads on, or its source is not believed (rp_filter)", ""


def _untranslated(case: Case, headers: Headers) -> str:
    """A Service's address that no rule has made an endpoint's."""
    asked, *behind = case.flow.ends
    name = case.directory.name_of(asked.address)
    if not name.startswith("service/") or (headers.target, headers.target_port) != (asked.address, asked.port):
        return ""
    if not behind:
        return _lacking(case)
    return f"no rule translated {asked.address}:{asked.port}: the proxy of this node has not written {name}"


def _ways_on(case: Case, node: str, headers: Headers) -> list[Way]:
    """How a node would send it on; to whoever is behind the target, as nobody can tell whom it was translated to."""
    asked, *behind = case.flow.ends
    hosts = [end.address for end in behind] if (headers.target, headers.target_port) == (asked.address, asked.port) else []
    return [case.ways[node, address] for address in hosts or [headers.target] if (node, address) in case.ways]


def _ways_to_hosts(case: Case, node: str, ways: Sequence[Way]) -> list[Way]:
    """How it would send to the hosts at the other ends of the tunnels of these."""
    return [case.ways[node, way.host] for way in ways if (node, way.host) in case.ways]


def _in_the_tunnel(case: Case, loss: Loss, tunnel: Tunnel) -> tuple[str, str]:
    seen = loss.seen
    if not seen.leaving:
        return (f"{loss.it} came in at {seen.interface} from {tunnel.source} and was not unpacked: the firewall of that host "
                "took it, or there is no such tunnel"), ""
    if words := _wrong_host(case, loss, tunnel.target):
        return words, _right_entry(case, loss.node, seen.headers.target)
    return f"{loss.it} left {seen.interface} for {tunnel.target} and was seen nowhere after: the underlay took it", ""


def _wrong_host(case: Case, loss: Loss, host: str) -> str:
    """The words for a tunnel that leads to another node than the target's; empty where it is the right one."""
    target, name = loss.seen.headers.target, case.directory.name_of(host)
    wanted = case.directory.node_of(target)
    if not wanted or name == f"node/{wanted}":
        return ""
    return f"{loss.it} went into the tunnel to {name or host}, but {target} is on {wanted}: the forwarding entry is wrong"


def _right_entry(case: Case, node: str, target: str) -> str:
    way = case.ways.get((node, target))
    return _missing_entry(case, None, way) if way and way.mac else ""


def _missing_entry(case: Case, headers: Headers | None, way: Way) -> str:
    """The forwarding entry that leads to the target's node; nothing where it is not that which is missing."""
    places = (headers.target if headers else way.address), way.address
    wanted = next(filter(None, map(case.directory.node_of, places)), "")
    host = next((each for place in case.directory.places if place.kind == "node" and place.name == wanted
                 for each in place.addresses if Family.of(parse_address(each)) is case.flow.family), "")
    return f"bridge fdb replace {way.mac} dev {way.link} dst {host}" if way.mac and host else ""


def _sent_to(case: Case, loss: Loss) -> str:
    """The MACs that the other nodes would send to."""
    target = loss.seen.headers.tunnel.target if loss.seen.headers.tunnel else loss.seen.headers.target
    macs = {way.mac for (other, address), way in case.ways.items() if address == target and other != loss.node and way.mac}
    return f" ({', '.join(sorted(macs))})" if macs else ""
