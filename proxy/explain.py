"""What becomes of a packet to an address and port, in words and as a small drawing: who takes it, where to, as seen from whom.

The same decisions as the rules', from the same routes; the words of the rules are taken from what the layout made.

Pure. Must not know: where Services come from. Read next: `proxy/policy.py`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from nodecore.errors import UserError
from nodecore.net import Family, IPAddress, read_address

from .config import Config
from .endpoints import Endpoint
from .ledger import Fragment
from .policy import NOBODY, Choice
from .services import PROTOCOLS, Kind, ServicePort, Way
from .snapshot import Route

SELF = "this node's address"
OUTSIDE, POD = "somebody outside the cluster", "a pod"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a packet is sent to."""

    address: str
    port: int
    protocol: str

    @property
    def family(self) -> Family:
        """Of the address."""
        return Family.of(ip_address(self.address))

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends it: an address, or only whether it is one of the cluster's pods."""

    address: str
    inside: bool
    here: bool = False  # it is this node itself

    def __str__(self) -> str:
        return self.address or (POD if self.inside else OUTSIDE)


@dataclass(frozen=True, slots=True)
class Match:
    """A Service's port that has this address, and the way in."""

    route: Route
    way: Way


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of it: who may answer, or why nobody does; with the reasons, and the source address endpoints see."""

    reasons: tuple[str, ...]
    endpoints: tuple[Endpoint, ...] = ()
    end: str = ""  # "refused" or "dropped" where nobody answers
    masqueraded: bool = False


def parse_destination(text: str) -> Destination:
    """`10.96.0.10:80`, `10.96.0.10:53/udp`, `[fd00::1]:80`."""
    rest, _, protocol = text.partition("/")
    host, colon, port = rest.rpartition(":")
    try:
        address = str(read_address(host.strip("[]")))
        number = int(port)
    except ValueError:
        raise UserError(f"{text!r}: not ADDRESS:PORT[/PROTOCOL]") from None
    protocol = (protocol or "tcp").lower()
    if not colon or not 1 <= number <= 65535 or protocol.upper() not in PROTOCOLS:
        raise UserError(f"{text!r}: not ADDRESS:PORT[/PROTOCOL]")
    return Destination(address, number, protocol)


def callers(config: Config, family: Family, address: IPAddress | None, own: Container[str] = ()) -> list[Caller]:
    """The one that is asked about, or one of each sort."""
    networks = [network for network in config.locality.networks if Family.of(network) is family]
    if address:
        return [Caller(str(address), not networks or any(address in network for network in networks),
                       here=str(address) in own)]
    return [Caller("", inside=True), Caller("", inside=False)]


def find(routes: Sequence[Route], destination: Destination) -> list[Match]:
    """The Services' ports that claim the destination: by its address first, else by NodePort; the first by name has it."""
    here = [Match(route, way) for route in routes for way in route.port.ways
            if route.port.protocol == destination.protocol and way.port == destination.port]
    by_address = [match for match in here if match.way.address == destination.address]
    return sorted(by_address or [match for match in here if match.way.kind is Kind.NODE_PORT],
                  key=lambda match: match.route.port.service)


def is_a_services(routes: Sequence[Route], destination: Destination) -> bool:
    """Whether the address is some Service's ClusterIP, so that a port nobody has there is refused."""
    return any(way.address == destination.address and way.kind is Kind.CLUSTER_IP for route in routes for way in route.port.ways)


def decide(match: Match, caller: Caller, config: Config) -> Fate:
    """What becomes of a packet from a caller."""
    route, way = match.route, match.way
    if not _may(caller, way):
        return Fate((f"only {', '.join(way.sources or ())} may come this way (loadBalancerSourceRanges)",), end="dropped")
    choice, reasons, local = _choice(route, way, caller)
    if not choice.endpoints:
        why = "endpoints are on other nodes only" if choice.elsewhere else "the Service has no endpoints that are ready"
        return Fate((*reasons, why), end="dropped" if choice.elsewhere else "refused")
    masqueraded, why = _masquerade(way, caller, config, local=local)
    return Fate((*reasons, *_choosing(route.port, choice), why), choice.endpoints, masqueraded=masqueraded)


def _may(caller: Caller, way: Way) -> bool:
    if way.sources is None or not caller.address:
        return True
    return any(ip_address(caller.address) in ip_network(text) for text in (*way.sources, way.address))


def _choice(route: Route, way: Way, caller: Caller) -> tuple[Choice, tuple[str, ...], bool]:
    """Who may answer, why, and whether it is the Local way."""
    if way.kind is Kind.CLUSTER_IP:
        here = ("internalTrafficPolicy Local: endpoints of this node only",) if route.port.internal_local else ()
        return route.cluster, here, False
    if route.local and not (caller.inside or caller.here) and (route.local.endpoints or route.local.elsewhere):
        return route.local, ("externalTrafficPolicy Local: for callers from outside, endpoints of this node only",), True
    who = "this node" if caller.here else "callers inside the cluster"
    reason = (f"externalTrafficPolicy Local does not count for {who}",) if route.local else ()
    return route.anywhere or NOBODY, reason, False


def _choosing(port: ServicePort, choice: Choice) -> Iterator[str]:
    if all(item.terminating for item in choice.endpoints):
        yield "none is ready: those that are terminating but still serve"
    if port.affinity:
        yield f"sessionAffinity ClientIP: a caller stays at one for {port.affinity} s after its last connection"


def _masquerade(way: Way, caller: Caller, config: Config, *, local: bool) -> tuple[bool, str]:
    if local:
        return False, "the caller's address is kept: the endpoint is here, so its answers come through here"
    if way.kind is not Kind.CLUSTER_IP:
        return True, "masqueraded: the endpoint may be on another node, and its answers have to come back here"
    if config.masquerade_all:
        return True, "masqueraded: --masquerade-all"
    if config.locality.interface:
        return (False, "the caller's address is kept if it came through " + config.locality.interface) if caller.inside else (
            True, f"masqueraded: it did not come through {config.locality.interface}")
    if not caller.inside:
        return True, "masqueraded: the caller is none of the cluster's (--cluster-cidr)"
    return False, "the caller's address is kept"


def rules(fragments: Iterable[Fragment], claim: str) -> list[str]:
    """What of a Service port's fragments takes packets that come one way, in the words of the mode."""
    found = [element for fragment in fragments if fragment.claim == claim for element in fragment.elements]
    lines = [f"{item.container}: {line}" for item in found for line in item.value.splitlines() if item.value.startswith("-")]
    return lines or [f"{item.container}: {item.key} : {item.value}" for item in found if item.key == claim and item.value]


def draw(destination: Destination, match: Match, caller: Caller, fate: Fate, rules: Iterable[str] = ()) -> list[str]:
    """The packet's way, drawn."""
    name = f"{match.route.port.service}" + (f", port {match.route.port.name}" if match.route.port.name else "")
    lines = [f"{caller} ──> {destination}", f"  {match.way.kind.value} of Service {name}"]
    lines += [f"  {rule}" for rule in rules]
    lines += [f"  · {reason}" for reason in fate.reasons]
    if fate.end:
        return [*lines, "  └──x " + ("refused: TCP reset, or ICMP port unreachable" if fate.end == "refused" else "dropped")]
    count = len(fate.endpoints)
    for index, item in enumerate(fate.endpoints):
        host = f"[{item.address}]" if ":" in item.address else item.address
        where = "on this node" if item.local else "nobody says where" if item.unplaced else "on another node"
        share = f" 1/{count}" if count > 1 else ""
        seen = SELF if fate.masqueraded or item.address == caller.address else str(caller)
        lines.append(f"  {'├' if index < count - 1 else '└'}──{share}> {host}:{item.port}   {where}, sees {seen}")
    return lines
