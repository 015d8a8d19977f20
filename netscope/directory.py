"""Who has which address in the cluster, and what a name given by the user means.

Pure. Must not know: where this was read. Read next: `netscope/flow.py`; `cluster.py`, which reads it from the API.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from netscope.flow import NAMES, End
from nodecore.errors import UserError
from nodecore.net import Family, parse_address


@dataclass(frozen=True, slots=True)
class Place:
    """A pod, Service or node: its addresses, the node it is on, and where a Service's ports lead: (protocol, port) -> ends.

    `node_ports` are those of its ports that every node has.
    """

    kind: str
    name: str
    addresses: tuple[str, ...]
    node: str = ""
    ports: dict[tuple[int, int], tuple[End, ...]] = field(default_factory=dict)
    node_ports: dict[tuple[int, int], tuple[End, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def reached_at(self) -> tuple[tuple[str, int, int], ...]:
        """Address, port and protocol: its own (0: all of them), and those behind a Service that answer for it."""
        behind = ((end.address, end.port, protocol) for (protocol, _), ends in self.ports.items() for end in ends)
        return tuple(dict.fromkeys((*((address, 0, 0) for address in self.addresses), *behind)))

    def without(self, protocol: int, port: int) -> str:
        """The words for a Service's port that is not there."""
        known = ", ".join(f"{number}/{NAMES[each]}" for each, number in sorted(self.ports))
        return f"{self} has no port {port}/{NAMES[protocol]} (it has {known or 'none'})"

    def address(self, family: Family) -> str:
        """Its first address of a family."""
        found = next((each for each in self.addresses if Family.of(parse_address(each)) is family), "")
        if not found:
            raise UserError(f"{self} has no {family.name} address")
        return found


SHORT = {"po": "pod", "pods": "pod", "svc": "service", "services": "service", "no": "node", "nodes": "node"}


@dataclass(frozen=True, slots=True)
class Directory:
    """Everybody who has an address."""

    places: tuple[Place, ...]

    def find(self, text: str) -> Place:
        """`pod/NAME`, `svc/NAMESPACE/NAME`, `node/NAME`, a plain NAME, or an address, which need not be anybody's."""
        kind, slash, rest = text.partition("/")
        kinds = {SHORT.get(kind, kind)} if slash and SHORT.get(kind, kind) in SHORT.values() else set()
        wanted = rest if kinds else text
        found = [place for place in self.places if (not kinds or place.kind in kinds) and _is_called(place, wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{text!r} may be any of {', '.join(map(str, found))}: name one of them")
        try:
            address = str(parse_address(text))
        except UserError:
            raise UserError(f"{text!r}: no pod, Service or node of that name, and no address") from None
        return next((place for place in self.places if address in place.addresses), Place("address", address, (address,)))

    @property
    def nodes(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(place.name for place in self.places if place.kind == "node")

    def only(self, names: Iterable[str], flag: str) -> tuple[str, ...]:
        """These of its nodes, each once, in the order they are named."""
        for name in names:
            if name not in self.nodes:
                raise UserError(f"{flag}: {name!r} is no node; there are {', '.join(self.nodes) or 'none'}")
        return tuple(dict.fromkeys(names))

    def name_of(self, address: str) -> str:
        """Who has an address; empty where nobody is known to."""
        return next((str(place) for place in self.places if address in place.addresses), "")

    def node_of(self, address: str) -> str:
        """On which node an address lives; empty where that is not known."""
        return next((place.node for place in self.places if address in place.addresses and place.node), "")


def _is_called(place: Place, wanted: str) -> bool:
    return wanted in (place.name, place.name.rpartition("/")[2])


def of_hosts(names: Iterable[str]) -> Directory:
    """Machines without a cluster: nodes by their names, of whom nothing else is known."""
    return Directory(tuple(Place("node", name, (), name) for name in dict.fromkeys(names)))


def ends_of(places: Iterable[Place], address: str, protocol: int, port: int) -> tuple[End, ...]:
    """The target as asked for, and behind it, if it is a Service's or a NodePort, every endpoint's address and port."""
    known = tuple(places)
    of_node = any(place.kind == "node" and address in place.addresses for place in known)
    behind = [end for place in known for end in (
        *(place.ports.get((protocol, port), ()) if address in place.addresses else ()),
        *(place.node_ports.get((protocol, port), ()) if of_node else ()))]
    return (End(address, port), *behind)


def split_port(text: str) -> tuple[str, str]:
    """`web:80`, `10.0.0.1:80`, `[fd00::1]:80`, or without the port."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        if port.isdigit() and 0 < int(port) < 65536:
            return host, port
    return text, ""
