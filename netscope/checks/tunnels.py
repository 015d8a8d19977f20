"""VXLAN between every two nodes: device up, route, neighbour and forwarding entry to each other end, MTU, one address each.

Pure. Must not know: who made the entries (flanneld, ours or Go's, or a hand). Read next: `cluster.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network

from netscope.checks.cluster import Cluster, Vtep, vteps
from netscope.facts import Facts, Finding, Route
from netscope.scene import Scene

NOBODY = "00:00:00:00:00:00"  # everything unknown
OVERHEAD = {4: 50, 6: 70}  # outer Ethernet, IP, UDP and VXLAN headers, by the IP version of the hosts


def _pairs(cluster: Cluster) -> Iterator[tuple[Vtep, Vtep]]:
    """Every end with every other of the same VXLAN and address family."""
    ends = vteps(cluster)
    for here in ends:
        for there in ends:
            same = here.vni == there.vni and (":" in here.address) == (":" in there.address)
            if here.node != there.node and same:
                yield here, there


def routes(cluster: Cluster) -> Iterator[Finding]:
    """Each end has a route to what is behind every other."""
    for here, there in _pairs(cluster):
        route = _route_to(cluster[here.node].routes, there.address)
        if route is None or route.dst == "default":
            subnet = _subnet_at(cluster[there.node], there.address)
            yield Finding(here.node, f"no route to the pods of {there.node}", f"nothing leads to {there.address}",
                          f"ip route replace {subnet} via {there.address} dev {here.link.ifname} onlink" if subnet else "")
        elif _leads_elsewhere(route, here, there, cluster[there.node]):
            yield Finding(here.node, f"the route to the pods of {there.node} leads elsewhere",
                          f"{route.dst} via {route.gateway} dev {route.dev}, but its tunnel's end is {there.address}",
                          f"ip route replace {route.dst} via {there.address} dev {here.link.ifname} onlink")


def _leads_elsewhere(route: Route, here: Vtep, there: Vtep, other: Facts) -> bool:
    """Past the end of the tunnel, and not straight to the other host, as routes without a tunnel go."""
    if route.dev == here.link.ifname:
        return route.gateway != there.address
    hosts = {info.local for each in other.addresses for info in each.addr_info}
    return bool(route.gateway) and route.gateway not in hosts


def _subnet_at(facts: Facts, address: str) -> str:
    """The subnet of this node's own pods: the network of another link that the tunnel's address is the first of."""
    networks = (ip_interface(f"{info.local}/{info.prefixlen}").network for each in facts.addresses for info in each.addr_info)
    return next((str(each) for each in networks if each.num_addresses > 1 and str(each.network_address) == address), "")


def _route_to(routes: tuple[Route, ...], address: str) -> Route | None:
    """The longest that fits: of unicast routes."""
    wanted = ip_address(address)
    fitting = [(ip_network(_network(route.dst, wanted.version), strict=False), route) for route in routes if not route.type
               and (route.dst == "default" or (":" in route.dst) == (":" in address))]
    found = [(network.prefixlen, route) for network, route in fitting if network.version == wanted.version and wanted in network]
    return max(found, key=lambda each: each[0])[1] if found else None


def _network(text: str, version: int) -> str:
    if text == "default":
        return "0.0.0.0/0" if version == 4 else "::/0"
    return text


def stale_routes(scene: Scene) -> Iterator[Finding]:
    """No route leads through the tunnel to pods that no node has; nodes of which nothing is known may have any."""
    cluster = scene.facts
    if scene.missing:
        return
    ends = [ip_address(end.address) for end in vteps(cluster)]
    for here in vteps(cluster):
        for route in cluster[here.node].routes:
            if route.dev == here.link.ifname and route.gateway and not any(end in ip_network(route.dst) for end in ends):
                yield Finding(here.node, f"a route to {route.dst}, which no node has", f"via {route.gateway} dev {route.dev}",
                              f"ip route del {route.dst} via {route.gateway} dev {route.dev}")


def stale_entries(scene: Scene) -> Iterator[Finding]:
    """No forwarding or neighbour entry of a tunnel is for an end that is no node's, by its device or by its lease."""
    if scene.missing:
        return
    ends = vteps(scene.facts)
    leased = "".join(text for node in scene.objects.nodes for text in (node.metadata.annotations or {}).values())
    for here in ends:
        facts, name = scene.facts[here.node], here.link.ifname
        for entry in facts.fdb:
            if entry.ifname == name and entry.dst and entry.mac != NOBODY and entry.mac not in leased and not any(
                    entry.mac == end.link.address for end in ends):
                yield Finding(here.node, f"a forwarding entry for {entry.mac}, which no node has",
                              f"behind {entry.dst} on {name}", f"bridge fdb del {entry.mac} dev {name} dst {entry.dst}")
        for each in facts.neighbours:
            if each.dev == name and "PERMANENT" in each.state and not any(each.dst == end.address for end in ends):
                yield Finding(here.node, f"a neighbour entry for {each.dst}, which no node has", f"{each.lladdr} on {name}",
                              f"ip neigh del {each.dst} dev {name}")


def neighbours(cluster: Cluster) -> Iterator[Finding]:
    """Each end knows the MAC of every other."""
    for here, there in _pairs(cluster):
        entry = next((each for each in cluster[here.node].neighbours
                      if each.dev == here.link.ifname and each.dst == there.address), None)
        mac = entry.lladdr if entry else ""
        if mac != there.link.address:
            yield Finding(
                here.node, f"{'a wrong' if mac else 'no'} neighbour entry for {there.node}'s end of the tunnel",
                f"{there.address} is at {there.link.address}" + (f", the entry says {mac}" if mac else ""),
                f"ip neigh replace {there.address} lladdr {there.link.address} dev {here.link.ifname} nud permanent")


def forwarding_entries(cluster: Cluster) -> Iterator[Finding]:
    """Each end knows behind which host every other's MAC is."""
    for here, there in _pairs(cluster):
        hosts = [each.dst for each in cluster[here.node].fdb
                 if each.ifname == here.link.ifname and each.mac == there.link.address and each.dst]
        if hosts != [there.host]:
            yield Finding(
                here.node, f"{'a wrong' if hosts else 'no'} forwarding entry for {there.node}'s end of the tunnel",
                f"{there.link.address} is behind {there.host}" + (f", the entry says {', '.join(hosts)}" if hosts else ""),
                f"bridge fdb replace {there.link.address} dev {here.link.ifname} dst {there.host}")


def settings(cluster: Cluster) -> Iterator[Finding]:
    """Devices are up, speak the same port, and keep to their own addresses and MACs."""
    ends = vteps(cluster)
    for here in ends:
        if "UP" not in here.link.flags:
            yield Finding(here.node, f"{here.link.ifname} is down", "ip link", f"ip link set {here.link.ifname} up")
    for here, there in _pairs(cluster):
        if here.node > there.node:
            continue
        if here.port != there.port:
            what = f"{here.node} and {there.node} speak VXLAN on different ports"
            yield Finding(here.node, what, f"{here.port} and {there.port}")
        if here.host == there.host:
            yield Finding(here.node, f"{here.node} and {there.node} give the same address to the others",
                          f"both say {here.host}: choose another interface (flanneld's --iface, --iface-regex)")
        if here.link.address == there.link.address:
            yield Finding(here.node, f"{here.node} and {there.node} have the same tunnel MAC", here.link.address,
                          f"ip link del {here.link.ifname}")  # flanneld makes it anew


def sizes(cluster: Cluster) -> Iterator[Finding]:
    """A packet that fits the pods' links fits the underlay with all headers around it."""
    for here in vteps(cluster):
        facts = cluster[here.node]
        parent = facts.link(here.parent)
        if parent is None or not here.host:
            continue
        room = parent.mtu - OVERHEAD[ip_address(here.host).version]
        if here.link.mtu > room:
            yield Finding(
                here.node, f"{here.link.ifname} takes larger packets than the underlay",
                f"MTU {here.link.mtu}, but {parent.ifname} has room for {room}", f"ip link set {here.link.ifname} mtu {room}")
        for bridge in facts.links_of("bridge"):
            if bridge.ifname.startswith("cni") and bridge.mtu > here.link.mtu:
                yield Finding(here.node, f"the pods' bridge takes larger packets than {here.link.ifname}",
                              f"{bridge.ifname} has MTU {bridge.mtu}, the tunnel {here.link.mtu}",
                              f"ip link set {bridge.ifname} mtu {here.link.mtu}")


CHECKS = (settings, routes, neighbours, forwarding_entries, sizes)
SCENE_CHECKS = (stale_routes, stale_entries)
