"""IPVS mode: routes to fragments, and fragments to virtual servers, addresses and nft's words.

A packet's way, of the first packet of a connection:

    nat-prerouting, nat-output -> services: may it come, is it masqueraded, is there nobody to answer?
        goto cluster, external      a virtual server has this address and port: on to IPVS, marked where it must be
        goto inside                 from inside the cluster past a Local policy: to another virtual server
        goto nodeport               to the port of the same number of one address that stands for all of the node's
    routed to the node itself, as kube-ipvs0 has every Service's address
    IPVS at the hooks input and output: virtual server -> destination
    nat-postrouting: masquerade what is marked, what comes from a Service's address, and a pod that reached itself

Later packets find their connection in IPVS. The rules are as many as ever; what grows is maps, virtual servers,
addresses. The servers of both policies of a NodePort differ by address: ANYWHERE and LOCAL, which nobody else uses.

Pure; only checked addresses and numbers reach the text. Read next: `proxy/writers/ipvs.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nodecore.kernel.virtualserver import Destination, Server, ServerKey
from nodecore.net import Family

from .. import names
from ..ledger import Delta, Element, Fragment
from ..policy import NOBODY, Choice
from ..services import Kind, ServicePort, Way
from ..snapshot import Route
from . import nftables
from .nftwords import chain_lines
from .settings import UNSAID, Settings
from .ways import claim_of, local_of

DEVICE = "kube-ipvs0"  # has the Services' addresses; Go kube-proxy's has this name too
SERVER, DESTINATION, ADDRESS = "ipvs server", "ipvs destination", "ipvs address"
KERNEL = (SERVER, DESTINATION, ADDRESS)  # containers that nft does not hold
# Addresses that stand for all of the node's: from a range that hosts do not give themselves (RFC 3927), and local ones
ANYWHERE = {Family.IPV4: "169.254.255.10", Family.IPV6: "fd6b:7562:6550::10"}
LOCAL = {Family.IPV4: "169.254.255.11", Family.IPV6: "fd6b:7562:6550::11"}
STAND_INS = frozenset({*ANYWHERE.values(), *LOCAL.values()})
REFUSE, DROP, ACCEPT = f"goto {names.REFUSE}", "drop", "accept"
CLUSTER, EXTERNAL, INSIDE, NODE_PORT, NODE_PORT_LOCAL = "cluster", "external", "inside", "nodeport", "nodeport-local"
SERVICES, LOCAL_SERVICES = names.CLUSTER.verdicts, names.EXTERNAL_LOCAL.verdicts
NODE_PORTS, LOCAL_NODE_PORTS = names.NODE_PORT.verdicts, names.NODE_PORT_LOCAL.verdicts
ADDRESSES, TARGETS = "service-ips", "inside-targets"


@dataclass(frozen=True, slots=True)
class Layout:
    """The words for one family and one set of flags."""

    family: Family
    settings: Settings = UNSAID
    scheduler: str = "rr"

    @property
    def where(self) -> str:
        """What is written, for logs."""
        return f"virtual servers and table {self.table}"

    @property
    def table(self) -> str:
        """Family and name of the nft table."""
        return f"{self.family.nft} {names.TABLE}"

    def fragments(self, route: Route) -> list[Fragment]:
        """A Service port's part."""
        return [self._fragment(route, way) for way in route.port.ways]

    def _fragment(self, route: Route, way: Way) -> Fragment:
        anywhere = route.anywhere or NOBODY
        local = local_of(route)
        match way.kind:
            case Kind.CLUSTER_IP:
                part = self._cluster(route, way)
            case Kind.NODE_PORT:
                part = self._node_port(route.port, way, anywhere, local)
            case _:
                part = self._external(route, way, anywhere, local)
        return Fragment(claim_of(route.port, way), part.elements, tuple(dict.fromkeys(part.shared)))

    def _cluster(self, route: Route, way: Way) -> _Part:
        verdict = f"goto {CLUSTER}" if route.cluster.endpoints else _refusal(route.cluster)
        made = self._server(route.port, way.address, way.port, route.cluster)
        return made + _Part((Element(SERVICES, claim_of(route.port, way), verdict),), (Element(names.CLUSTER_IPS, way.address),))

    def _external(self, route: Route, way: Way, anywhere: Choice, local: Choice | None) -> _Part:
        key = claim_of(route.port, way)
        made = _Part(nftables.guard_elements(key, way))
        made += self._server(route.port, way.address, way.port, anywhere if local is None else local)
        if local is None:
            return made + _one(SERVICES, key, f"goto {EXTERNAL}" if anywhere.endpoints else _refusal(anywhere))
        made += _one(LOCAL_SERVICES, key, ACCEPT if local.endpoints else DROP)
        if not anywhere.endpoints:
            return made + _one(SERVICES, key, REFUSE)
        target = self._target(route.port)
        if not target:
            return made + _one(SERVICES, key, ACCEPT if local.endpoints else DROP)
        return made + _one(SERVICES, key, f"goto {INSIDE}") + _one(TARGETS, key, target)

    def _target(self, port: ServicePort) -> str:
        """The virtual server that leads to endpoints anywhere; empty where there is none."""
        if not port.internal_local:
            return f"{port.ways[0].address} . {port.ways[0].port}"
        return next((f"{ANYWHERE[self.family]} . {way.port}" for way in port.ways if way.kind is Kind.NODE_PORT), "")

    def _node_port(self, port: ServicePort, way: Way, anywhere: Choice, local: Choice | None) -> _Part:
        key = claim_of(port, way)
        made = self._server(port, ANYWHERE[self.family], way.port, anywhere)
        made += _one(NODE_PORTS, key, f"goto {NODE_PORT}" if anywhere.endpoints else _refusal(anywhere))
        if local is None:
            return made
        made += self._server(port, LOCAL[self.family], way.port, local)
        return made + _one(LOCAL_NODE_PORTS, key, f"goto {NODE_PORT_LOCAL}" if local.endpoints else DROP)

    def _server(self, port: ServicePort, address: str, number: int, choice: Choice) -> _Part:
        """A virtual server with its destinations; none where nobody answers."""
        if not choice.endpoints:
            return _Part()
        key = f"{address} {port.protocol} {number}"
        shared = [Element(ADDRESS, address), Element(ADDRESSES, address)]
        shared += [Element(names.HAIRPIN, f"{item.address} . {item.address}")
                   for item in choice.endpoints if item.local or item.unplaced]
        destinations = (Element(DESTINATION, f"{key} {item.address} {item.port}") for item in choice.endpoints)
        return _Part((Element(SERVER, key, f"{self.scheduler} {port.affinity}"), *destinations), tuple(shared))

    def full_script(self, everything: Delta) -> str:
        """All of it for a reader: what nft does not hold as comments, in the words of ipvsadm."""
        return "\n".join((*(f"# {line}" for line in _told(everything)), self.table_script(everything)))

    def table_script(self, everything: Delta) -> str:
        """Replace the whole nft table by this, in one transaction."""
        return "\n".join((
            f"add table {self.table}", f"delete table {self.table}",
            f"table {self.table} {{", *self._containers(), *self._chains(), "}", self.delta_script(everything),
        ))

    def delta_script(self, delta: Delta) -> str:
        """Change what has changed of the nft table, in one transaction; empty where nothing has."""
        words = nftables.Layout(self.family, self.settings).delta_script(Delta(_for_nft(delta.removed), _for_nft(delta.added)))
        return words if words.strip() else ""

    def _containers(self) -> Iterator[str]:
        address = "ipv4_addr" if self.family is Family.IPV4 else "ipv6_addr"
        service = f"{address} . inet_proto . inet_service"
        yield f"set {names.CLUSTER_IPS} {{ type {address}; }}"
        yield f"set {ADDRESSES} {{ type {address}; }}"
        yield f"set {names.HAIRPIN} {{ type {address} . {address}; }}"
        yield f"set {names.GUARDED} {{ type {service}; }}"
        yield f"set {names.ALLOWED} {{ type {service} . {address}; flags interval; }}"
        yield f"map {SERVICES} {{ type {service} : verdict; }}"
        yield f"map {LOCAL_SERVICES} {{ type {service} : verdict; }}"
        yield f"map {TARGETS} {{ type {service} : {address} . inet_service; }}"
        yield f"map {NODE_PORTS} {{ type inet_proto . inet_service : verdict; }}"
        yield f"map {LOCAL_NODE_PORTS} {{ type inet_proto . inet_service : verdict; }}"
        yield f"set {names.PROTOCOLS} {{ type inet_proto; elements = {{ tcp, udp, sctp }}; }}"
        yield from nftables.node_port_set(self.family, self.settings)

    def _chains(self) -> Iterator[str]:
        ip, here = self.family.nft, nftables.here_of(self.family, self.settings)
        outside = nftables.outside(self.family, self.settings)
        stranger = f"{outside} fib saddr type != local".strip()
        mark = f"meta mark set meta mark or {self.settings.mark:#x}"
        everybody = (mark,) if self.settings.masquerade_all else ()
        strangers = everybody or ((f"{outside} {mark}",) if outside else ())
        port, service = "meta l4proto . th dport", f"{ip} daddr . meta l4proto . th dport"
        to_target = f"meta l4proto @{names.PROTOCOLS} dnat {ip} to {service} map @{TARGETS}"
        yield from chain_lines(names.NAT_PREROUTING, "type nat hook prerouting priority dstnat; policy accept;", "jump services")
        yield from chain_lines(names.NAT_OUTPUT, "type nat hook output priority -100; policy accept;", "jump services")
        yield from chain_lines(
            names.NAT_POSTROUTING, "type nat hook postrouting priority srcnat; policy accept;",
            f"meta mark and {self.settings.mark:#x} != 0 jump {names.MASQUERADE}",
            f"{ip} saddr @{ADDRESSES} masquerade fully-random",
            f'oifname != "lo" {ip} saddr . {ip} daddr @{names.HAIRPIN} masquerade fully-random',
        )
        yield from chain_lines(CLUSTER, *strangers, ACCEPT)
        yield from chain_lines(EXTERNAL, mark, ACCEPT)
        yield from chain_lines(INSIDE, *everybody, to_target)
        yield from chain_lines(NODE_PORT, mark, f"dnat {ip} to {ANYWHERE[self.family]}")
        yield from chain_lines(NODE_PORT_LOCAL, f"dnat {ip} to {LOCAL[self.family]}")
        yield from chain_lines(
            names.SERVICES, f"{service} @{names.GUARDED} jump {names.GUARD}", f"{stranger} {service} vmap @{LOCAL_SERVICES}",
            f"{service} vmap @{SERVICES}", f"{ip} daddr @{names.CLUSTER_IPS} goto {names.REFUSE}",
            f"{here} jump {names.NODE_PORTS}",
        )
        yield from chain_lines(names.GUARD, f"{service} . {ip} saddr @{names.ALLOWED} return", DROP)
        yield from chain_lines(names.NODE_PORTS, f"{stranger} {port} vmap @{LOCAL_NODE_PORTS}", f"{port} vmap @{NODE_PORTS}")
        yield from chain_lines(names.REFUSE, "meta l4proto tcp reject with tcp reset", "reject")
        unmark = f"meta mark set meta mark xor {self.settings.mark:#x}"
        yield from chain_lines(names.MASQUERADE, unmark, "masquerade fully-random")


@dataclass(frozen=True, slots=True)
class _Part:
    """Something a way in needs: elements of its own, and those it shares."""

    elements: tuple[Element, ...] = ()
    shared: tuple[Element, ...] = ()

    def __add__(self, other: _Part) -> _Part:
        return _Part(self.elements + other.elements, self.shared + other.shared)


def _one(container: str, key: str, value: str) -> _Part:
    return _Part((Element(container, key, value),))


def _refusal(choice: Choice) -> str:
    return DROP if choice.elsewhere else REFUSE


def _for_nft(elements: Iterable[Element]) -> tuple[Element, ...]:
    return tuple(item for item in elements if item.container not in KERNEL)


def _told(everything: Delta) -> Iterator[str]:
    yield from (f"ip addr add {address} dev {DEVICE}" for address in addresses(everything.added))
    for item in servers(everything.added):
        persistence = f" --persistent {item.persistence}" if item.persistence else ""
        yield f"ipvsadm --add-service {item.key.describe()} --scheduler {item.scheduler}{persistence}"
    for one in destinations(everything.added):
        yield f"ipvsadm --add-server {one.server.describe()} --real-server {one.describe()} --masquerading"


def servers(elements: Iterable[Element]) -> list[Server]:
    """The virtual servers among them."""
    found = []
    for item in elements:
        if item.container == SERVER:
            scheduler, _, seconds = item.value.partition(" ")
            found.append(Server(_server_key(item.key), scheduler, int(seconds)))
    return found


def destinations(elements: Iterable[Element], weight: int = 1) -> list[Destination]:
    """The destinations among them."""
    found = []
    for item in elements:
        if item.container == DESTINATION:
            server, address, port = item.key.rsplit(" ", 2)
            found.append(Destination(_server_key(server), address, int(port), weight))
    return found


def addresses(elements: Iterable[Element]) -> list[str]:
    """The addresses of the device among them."""
    return [item.key for item in elements if item.container == ADDRESS]


def elements_of(made: Iterable[Server], behind: Iterable[Destination], bound: Iterable[str]) -> frozenset[Element]:
    """What the kernel holds, in the words of a delta; destinations that are given no connections are none."""
    return frozenset((
        *(Element(SERVER, text_of(item.key), f"{item.scheduler} {item.persistence}") for item in made),
        *(Element(DESTINATION, text_of_destination(item)) for item in behind if item.weight == 1),
        *(Element(ADDRESS, address) for address in bound),
    ))


def _server_key(text: str) -> ServerKey:
    address, protocol, port = text.split(" ")
    return ServerKey(address, protocol, int(port))


def text_of(key: ServerKey) -> str:
    """A virtual server's key in the words of a delta."""
    return f"{key.address} {key.protocol} {key.port}"


def text_of_destination(item: Destination) -> str:
    """A destination's."""
    return f"{text_of(item.server)} {item.address} {item.port}"
