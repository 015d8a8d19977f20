"""The cluster's network as a picture: nodes with their subnets, tunnels and pods, what lies between every two, and Services.

Pure. Must not know: how it was measured. Read next: `netscope/mapdrawing.py`, which draws it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from netscope.checks.cluster import Vtep, vteps
from netscope.checks.leases import subnets_of
from netscope.facts import Facts
from netscope.scene import Scene, addresses_of, node_addresses
from netscope.walk.routes import longest
from nodecore.net import parse_address


class MapNode(msgspec.Struct, frozen=True):
    """One node."""

    name: str
    addresses: tuple[str, ...]
    subnets: tuple[str, ...]
    tunnels: tuple[str, ...]
    links: tuple[str, ...]
    pods: tuple[str, ...]
    ready: bool
    known: bool


class MapPair(msgspec.Struct, frozen=True):
    """From one node to another: by which link its pods' packets go, and milliseconds to the host and to the tunnel's end; None:
    no answer (`asked` says whether anybody was asked at all)."""

    source: str
    target: str
    by: str
    asked: bool = False
    host: float | None = None
    tunnel: float | None = None

    @property
    def works(self) -> bool:
        """Whether all that was asked answered."""
        return not self.asked or (self.host is not None and self.tunnel is not None)


class MapService(msgspec.Struct, frozen=True):
    """One Service's address and ports, and who answers."""

    name: str
    addresses: tuple[str, ...]
    ports: tuple[str, ...]
    endpoints: tuple[str, ...]


class Map(msgspec.Struct, frozen=True):
    """The whole."""

    nodes: tuple[MapNode, ...]
    pairs: tuple[MapPair, ...]
    services: tuple[MapService, ...]


def _ends(scene: Scene, name: str) -> list[Vtep]:
    return vteps({name: scene.facts[name]}) if name in scene.facts else []


def map_of(scene: Scene) -> Map:
    """What is there, with what was measured."""
    return Map(tuple(_nodes(scene)), tuple(_pairs(scene)), tuple(_services(scene)))


def _nodes(scene: Scene) -> Iterator[MapNode]:
    for node in scene.objects.nodes:
        name = node.metadata.name
        facts = scene.facts.get(name, Facts())
        ready = next((each.status == "True" for each in node.status.conditions or () if each.type == "Ready"), False)
        yield MapNode(
            name, node_addresses(node), tuple(map(str, subnets_of(scene, node))),
            tuple(f"{end.link.ifname} VXLAN {end.vni} {end.address} MTU {end.link.mtu}" for end in _ends(scene, name)),
            tuple(f"{link.ifname} {link.kind} MTU {link.mtu}" if link.kind else f"{link.ifname} MTU {link.mtu}"
                  for link in facts.links if link.ifname != "lo" and link.kind not in ("veth", "vxlan")),
            tuple(f"{pod.metadata.key} {' '.join(addresses_of(pod))}" for pod in scene.objects.pods
                  if pod.spec.node_name == name and not pod.finished and not pod.spec.host_network),
            ready, name in scene.facts)


def _pairs(scene: Scene) -> Iterator[MapPair]:
    for node in scene.objects.nodes:
        for other in scene.objects.nodes:
            here, there = node.metadata.name, other.metadata.name
            if here == there:
                continue
            subnets, told = subnets_of(scene, other), scene.echoes.get(here)
            ends = [each.address for each in _ends(scene, there)]
            host = _fastest(told, node_addresses(other))
            yield MapPair(here, there, _by(scene, here, str(subnets[0].network_address)) if subnets else "", told is not None,
                          host,
                          _fastest(told, ends) if ends else host)


def _fastest(told: Mapping[str, float] | None, addresses: tuple[str, ...] | list[str]) -> float | None:
    return min((told[address] for address in addresses if address in told), default=None) if told else None


def _by(scene: Scene, name: str, address: str) -> str:
    found = longest(scene.facts[name].routes, parse_address(address)) if name in scene.facts else None
    return found.dev if found and found.dst != "default" else ""


def _services(scene: Scene) -> Iterator[MapService]:
    names = {number: name for name, number in (("TCP", 6), ("UDP", 17), ("SCTP", 132))}
    for place in scene.directory.places:
        if place.kind == "service":
            ends = {f"{end.name or end.address}:{end.port}": None for ends in place.ports.values() for end in ends}
            yield MapService(place.name, place.addresses,
                             tuple(f"{port}/{names.get(protocol, protocol)}" for protocol, port in place.ports), tuple(ends))
