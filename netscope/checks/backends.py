"""Flannel's other ways between nodes (host-gw, ipip, wireguard, udp): device, routes and peers to every other, none stale, MTU.

IPsec's nodes are known here as well, what is special about them stands in `ipsec.py`.

Where leases are in the API they say which way it is; elsewhere the devices do, and for host-gw routes from host to host.
Pure. Must not know: who made the entries. Read next: `tunnels.py`, the same for VXLAN; `leases.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from netscope.checks.leases import RESTART, lease_of, subnets_of
from netscope.facts import Facts, Finding, Link, Route
from netscope.scene import Scene, node_addresses
from netscope.walk.routes import longest, network_of
from nodecore.net import IPNetwork

HOST_GW, IPIP, WIREGUARD, UDP, IPSEC = "host-gw", "ipip", "wireguard", "udp", "ipsec"
DEVICES = ((IPIP, "ipip", r"flannel\.ipip"), (WIREGUARD, "wireguard", r"flannel-wg(-v6)?"), (UDP, "tun", r"flannel\d+"))
OVERHEAD = {HOST_GW: 0, IPIP: 20, WIREGUARD: 60, UDP: 28, IPSEC: 77}  # what a packet costs at least, by the way it goes


@dataclass(frozen=True, slots=True)
class Site:
    """A node: which way it has to others, by which links, its pods' subnets and its own addresses."""

    name: str
    facts: Facts
    way: str
    links: tuple[Link, ...]
    subnets: tuple[IPNetwork, ...]
    hosts: tuple[str, ...]

    def host(self, version: int) -> str:
        """Its address of an IP version."""
        return next((each for each in self.hosts if ip_address(each).version == version), "")


def sites(scene: Scene) -> list[Site]:
    """The nodes that have one of these ways."""
    found = []
    hosts = {address for node in scene.objects.nodes for address in node_addresses(node)}
    subnets = [each for node in scene.objects.nodes for each in subnets_of(scene, node)]
    for node in scene.objects.nodes:
        facts = scene.facts.get(node.metadata.name)
        if facts is None or facts.links_of("vxlan"):
            continue
        way, links = lease_of(node).get("backend-type", ""), tuple[Link, ...]()
        for name, kind, pattern in DEVICES:
            if devices := tuple(link for link in facts.links_of(kind) if re.fullmatch(pattern, link.ifname)):
                way, links = way or name, devices
        if not way and any(policy.hosts[1] in hosts and policy.direction == "out" for policy in facts.policies):
            way = IPSEC
        if not way and any(route.gateway in hosts and _network(route) in subnets for route in facts.routes):
            way = HOST_GW
        if way in OVERHEAD:
            found.append(Site(node.metadata.name, facts, way, links, tuple(subnets_of(scene, node)), node_addresses(node)))
    return found


def _network(route: Route) -> IPNetwork | None:
    return None if route.dst == "default" else network_of(route, 6 if ":" in route.dst else 4)


def _pairs(scene: Scene) -> Iterator[tuple[Site, Site]]:
    known = sites(scene)
    return ((here, there) for here in known for there in known
            if here.name != there.name and here.way == there.way and (here.links or here.way == HOST_GW))


def routes(scene: Scene) -> Iterator[Finding]:
    """Each node has a route to every other's pods: by the device, or to the host itself."""
    for here, there in _pairs(scene):
        for subnet in there.subnets:
            found = longest(here.facts.routes, subnet.network_address + 1)
            if found is None or found.dst == "default":
                yield Finding(here.name, f"no route to the pods of {there.name}", f"nothing leads to {subnet}",
                              _right(here, there, subnet))
            elif not _is_right(found, here, there):
                by = f"via {found.gateway} dev {found.dev}" if found.gateway else f"dev {found.dev}"
                yield Finding(here.name, f"the route to the pods of {there.name} leads elsewhere",
                              f"{found.dst} {by}, but its address is {there.host(subnet.version)}", _right(here, there, subnet))


def _is_right(route: Route, here: Site, there: Site) -> bool:
    if here.way in (HOST_GW, IPIP):
        return route.gateway in there.hosts
    return route.dev in {link.ifname for link in here.links}


def _right(here: Site, there: Site, subnet: IPNetwork) -> str:
    host, device = there.host(subnet.version), here.links[0].ifname if here.links else ""
    match here.way:
        case "host-gw":
            return f"ip route replace {subnet} via {host}" if host else ""
        case "ipip":
            return f"ip route replace {subnet} via {host} dev {device} onlink" if host and device else ""
    told = (here.facts.settings.subnet or {}).get("FLANNEL_NETWORK" if subnet.version == 4 else "FLANNEL_IPV6_NETWORK", "")
    return f"ip route replace {told or subnet} dev {device}" if device else ""


def stale_routes(scene: Scene) -> Iterator[Finding]:
    """No route leads to another host for pods that no node has; a node of which nothing is known may have any."""
    if scene.missing:
        return
    known = sites(scene)
    subnets = [each for node in scene.objects.nodes for each in subnets_of(scene, node)]
    for here in known:
        hosts = {host for other in known if other is not here for host in other.hosts}
        told = here.facts.settings.subnet or {}
        whole = [ip_network(told[key], strict=False) for key in ("FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK") if key in told]
        for route in here.facts.routes:
            network = _network(route)
            if network is None or route.gateway not in hosts or any(network.overlaps(each) for each in subnets
                                                                    if each.version == network.version):
                continue
            if route.dev in {link.ifname for link in here.links} or any(
                    each.version == network.version and network.subnet_of(each) for each in whole):  # type: ignore[arg-type]
                yield Finding(here.name, f"a route to {route.dst}, which no node has", f"via {route.gateway} dev {route.dev}",
                              f"ip route del {route.dst} via {route.gateway} dev {route.dev}")


def peers(scene: Scene) -> Iterator[Finding]:
    """WireGuard: each other node's pods are somebody's, and nobody's networks are no node's."""
    for here, there in _pairs(scene):
        if here.way == WIREGUARD:
            allowed = [ip_network(each) for peer in here.facts.peers for each in peer.allowed]
            for subnet in there.subnets:
                if subnet not in allowed:
                    yield Finding(here.name, f"no WireGuard peer has the pods of {there.name}", f"{subnet} is allowed for nobody",
                                  RESTART)
    subnets = {each for node in scene.objects.nodes for each in subnets_of(scene, node)}
    for here in sites(scene):
        for peer in here.facts.peers if here.way == WIREGUARD and not scene.missing else ():
            if not subnets & set(map(ip_network, peer.allowed)):
                yield Finding(here.name, f"a WireGuard peer on {peer.link} that is no node",
                              f"{peer.public_key} has {', '.join(peer.allowed) or 'no networks'}",
                              f"wg set {peer.link} peer {peer.public_key} remove")


def devices(scene: Scene) -> Iterator[Finding]:
    """The device is there and up, and what pods may send fits the underlay with all headers around it."""
    for here in sites(scene):
        if here.way not in (HOST_GW, IPSEC) and not here.links:
            yield Finding(here.name, f"its lease says {here.way}, but there is no such device", "ip link", RESTART)
        for link in here.links:
            if "UP" not in link.flags:
                yield Finding(here.name, f"{link.ifname} is down", "ip link", f"ip link set {link.ifname} up")
        yield from _sizes(here)


def _sizes(here: Site) -> Iterator[Finding]:
    carrier = next((link for each in here.facts.addresses for info in each.addr_info
                    if info.local in here.hosts and (link := here.facts.link(each.ifname))), None)
    if carrier is None:
        return
    room = carrier.mtu - OVERHEAD[here.way]
    for link in here.links:
        if link.mtu > room:
            yield Finding(here.name, f"{link.ifname} takes larger packets than the underlay",
                          f"MTU {link.mtu}, but {carrier.ifname} has room for {room}", f"ip link set {link.ifname} mtu {room}")
    room = min([room, *(link.mtu for link in here.links)])
    for bridge in here.facts.links_of("bridge"):
        if bridge.ifname.startswith("cni") and bridge.mtu > room:
            yield Finding(here.name, f"the pods' bridge takes larger packets than {here.way} carries",
                          f"{bridge.ifname} has MTU {bridge.mtu}, there is room for {room}",
                          f"ip link set {bridge.ifname} mtu {room}")


SCENE_CHECKS = (devices, routes, stale_routes, peers)
