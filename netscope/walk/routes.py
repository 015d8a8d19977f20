"""Which way a node's routes, neighbours and forwarding entries send a packet.

Pure. Must not know: packet rules. Read next: `host.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from netscope.facts import Facts, Route, RouteRule
from netscope.walk.packet import Packet
from nodecore.net import IPAddress, IPNetwork

EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
REFUSALS = ("unreachable", "blackhole", "prohibit", "throw")


@dataclass(frozen=True, slots=True)
class Hop:
    """Where a packet goes next: by which link, to whom on it (empty: the target itself), and the route that says so."""

    link: str
    gateway: str
    route: str
    refusal: str = ""
    source: str = ""


def network_of(route: Route, version: int) -> IPNetwork | None:
    """A route's destination, None where it is of the other IP version."""
    text = EVERYWHERE[version] if route.dst == "default" else route.dst
    if route.dst == "default" and (other := route.gateway or route.prefsrc) and (":" in other) != (version == 6):
        return None
    network = ip_network(text, strict=False)
    return network if network.version == version else None


def route(facts: Facts, packet: Packet) -> Hop | None:
    """As the rules and tables say; None where nothing leads there."""
    for table, refusal in _tables(facts, packet):
        if refusal:
            return Hop("", "", f"ip rule: {refusal}", refusal)
        routes = facts.routes if table == "main" else [each for each in facts.other_routes if each.table == table]
        found = longest(routes, packet.target)
        if found is not None and found.type != "throw":
            return _hop(found)
    return None


def longest(routes: Iterator[Route] | tuple[Route, ...] | list[Route], address: IPAddress) -> Route | None:
    """The most particular route of those that fit; among equals the one of the lowest metric."""
    fitting = [(network.prefixlen, -each.metric, each) for each in routes
               if each.type not in ("local", "broadcast", "multicast", "anycast")
               and (network := network_of(each, address.version)) is not None and address in network]
    return max(fitting, key=lambda each: each[:2])[2] if fitting else None


def _hop(found: Route) -> Hop:
    first = found.nexthops[0] if found.nexthops else None
    link, gateway = (first.dev, first.gateway) if first else (found.dev, found.gateway)
    words = [found.type, found.dst, *(["via", gateway] if gateway else []), *(["dev", link] if link else []),
             *(["table", found.table] if found.table else [])]
    return Hop(link, gateway, " ".join(filter(None, words)), found.type if found.type in REFUSALS else "", found.prefsrc)


def _tables(facts: Facts, packet: Packet) -> Iterator[tuple[str, str]]:
    """Each table to look into, or the refusal of a rule."""
    if not facts.route_rules:
        yield "main", ""
        return
    for rule in sorted(facts.route_rules, key=lambda each: each.priority):
        if rule.table != "local" and _fits(rule, packet):
            yield rule.table or "main", rule.action if rule.action in REFUSALS else ""


def _fits(rule: RouteRule, packet: Packet) -> bool:
    for text, length, address in ((rule.src, rule.srclen, packet.source), (rule.dst, rule.dstlen, packet.target)):
        if text != "all":
            network = ip_network(f"{text}/{length}" if length >= 0 else text, strict=False)
            if network.version != address.version or address not in network:
                return False
    if rule.fwmark and packet.mark & int(rule.fwmask or "0xffffffff", 0) != int(rule.fwmark, 0):
        return False
    return not rule.iif or rule.iif == (packet.came_by or "lo")


def neighbour(facts: Facts, link: str, address: str) -> str:
    """The MAC of somebody on a link; empty where it is not known now (it may be asked for)."""
    wanted = ip_address(address)
    return next((each.lladdr for each in facts.neighbours
                 if each.dev == link and each.lladdr and ip_address(each.dst) == wanted), "")


def hosts_behind(facts: Facts, link: str, mac: str) -> list[str]:
    """Behind which hosts a VXLAN link says a MAC is; without an entry those that everything unknown goes to."""
    of_link = [each for each in facts.fdb if each.ifname == link and each.dst]
    return ([each.dst for each in of_link if each.mac == mac]
            or [each.dst for each in of_link if each.mac == "00:00:00:00:00:00"])
