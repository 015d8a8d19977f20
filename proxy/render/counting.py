"""Counting what passes between Services and endpoints: nft sets whose elements have counters, looked up by every packet.

What a connection was translated from, connection tracking remembers, whoever translated it. So it is the same in nftables
mode, where this is part of the table, and in iptables mode, where it is a table of its own.

    postrouting, input -> count-to, count-from: one element of way in . endpoint for each direction

Pure. Read next: `proxy/traffic.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nodecore.net import Family

from .. import names
from ..ledger import Delta, Element
from ..policy import Choice
from ..services import Kind, Way
from ..snapshot import Route
from .nftwords import chain_lines, element_words
from .ways import claim_of, local_of

TRAFFIC = names.TRAFFIC_TO, names.TRAFFIC_FROM
NODE_PORT_TRAFFIC = names.NODE_PORT_TRAFFIC_TO, names.NODE_PORT_TRAFFIC_FROM
SETS = frozenset((*TRAFFIC, *NODE_PORT_TRAFFIC))


def counted(route: Route, way: Way) -> tuple[Element, ...]:
    """Where packets between a way in and its endpoints are counted."""
    choices: tuple[Choice | None, ...] = (route.cluster,) if way.kind is Kind.CLUSTER_IP else (route.anywhere, local_of(route))
    places = sorted({f"{item.address} . {item.port}" for choice in choices if choice for item in choice.endpoints})
    key, sets = claim_of(route.port, way), TRAFFIC if way.address else NODE_PORT_TRAFFIC
    return tuple(Element(name, f"{key} . {place}") for name in sets for place in places)


def declarations(family: Family) -> Iterator[str]:
    """The sets."""
    address = "ipv4_addr" if family is Family.IPV4 else "ipv6_addr"
    for found, way in (TRAFFIC, f"{address} . inet_proto . inet_service"), (NODE_PORT_TRAFFIC, "inet_proto . inet_service"):
        yield from (f"set {name} {{ type {way} . {address} . inet_service; counter; }}" for name in found)


def chains(family: Family) -> Iterator[str]:
    """Count every packet of a connection that was translated, once: what stays on this node comes by twice."""
    ip = family.nft
    translated = "ct status and dnat != 0"
    ours = f"{translated} ct direction original goto {names.COUNT_TO}", f"{translated} goto {names.COUNT_FROM}"
    yield from chain_lines(names.COUNT_POSTROUTING, "type filter hook postrouting priority 0; policy accept;", *ours)
    hook = "type filter hook input priority 0; policy accept;"
    yield from chain_lines(names.COUNT_INPUT, hook, 'iifname "lo" return', *ours)
    ends = (names.COUNT_TO, f"{ip} daddr . th dport"), (names.COUNT_FROM, f"{ip} saddr . th sport")
    for index, (chain, place) in enumerate(ends):
        rules = []
        for protocol in ("tcp", "udp", "sctp"):  # nft knows a tracked port as a number only beside a protocol
            port = f"meta l4proto . ct original proto-dst . {place}"
            rules.append(f"meta l4proto {protocol} ct original {ip} daddr . {port} @{TRAFFIC[index]} return")
            rules.append(f"meta l4proto {protocol} {port} @{NODE_PORT_TRAFFIC[index]} return")
        yield from chain_lines(chain, *rules)


def own_table(family: Family, everything: Delta) -> str:
    """A table that does nothing else, in the place of an earlier one."""
    table = f"{family.nft} {names.TRAFFIC_TABLE}"
    return "\n".join((
        f"add table {table}", f"delete table {table}", f"table {table} {{", *declarations(family), *chains(family), "}",
        *element_words(table, "add", _ours(everything.added)), "",
    ))


def change(family: Family, delta: Delta) -> str:
    """What has changed in it; empty where nothing has."""
    table = f"{family.nft} {names.TRAFFIC_TABLE}"
    lines = (*element_words(table, "delete", _ours(delta.removed)), *element_words(table, "add", _ours(delta.added)))
    return "\n".join((*lines, "")) if lines else ""


def _ours(elements: Iterable[Element]) -> Iterator[Element]:
    return (item for item in elements if item.container in SETS)
