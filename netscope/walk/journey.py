"""A packet's whole way over all nodes, and its answer's: from a pod or node, through tunnels, to whoever gets it.

Only what facts tell is used; what lies between two hosts is believed to work. Pure. Read next: `host.py`, `tunnel.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

import msgspec

from netscope.directory import Directory
from netscope.facts import Facts
from netscope.walk import routes
from netscope.walk.host import Ended, Node
from netscope.walk.packet import Chance, Packet, Step, Tuple, every_way
from netscope.walk.routes import Hop
from netscope.walk.tunnel import outside_of, unpack
from nodecore.net import IPAddress

NODES_MOST = 16
TUNNELS = ("vxlan", "wireguard", "ipip", "sit", "tun")
WAYS_MOST = 64


class Journey(msgspec.Struct, frozen=True):
    """One possible way: its steps there and back, who got it (`end`: address and port), and how it ended; `target` is whom it
    was for when it did, `on` the node that `mend` is for where that is another one, `passed` the links it went by: node, link."""

    there: tuple[Step, ...]
    back: tuple[Step, ...]
    what: str
    where: str = ""
    why: str = ""
    mend: str = ""
    reached: str = ""
    end: str = ""
    target: str = ""
    on: str = ""
    passed: tuple[tuple[str, str], ...] = ()


class Question(msgspec.Struct, frozen=True):
    """Who sends what to whom."""

    source: str
    target: str
    protocol: int
    port: int
    source_port: int = 40000


class World:
    """All nodes' facts, read once for many journeys."""

    def __init__(self, cluster: Mapping[str, Facts], directory: Directory) -> None:
        self._names: dict[str, str] = {}
        self._homes: dict[str, str] = {}
        for place in directory.places:
            for each in place.addresses:
                self._names.setdefault(each, str(place))
                if place.node:
                    self._homes.setdefault(each, place.node)
        self.nodes = {name: Node(name, facts) for name, facts in cluster.items()}
        self._by_address = {address: node for node in self.nodes.values() for address in map(ip_address, _own(node.facts))}

    def ways(self, question: Question, limit: int = WAYS_MOST) -> list[Journey]:
        """Every way that chance may choose."""
        return every_way(lambda chance: Walk(self, chance).journey(question), limit)

    def node_at(self, address: IPAddress) -> Node | None:
        """The node that has an address itself."""
        return self._by_address.get(address)

    def home_of(self, address: IPAddress) -> Node | None:
        """The node a pod's address lives on."""
        return self.nodes.get(self.home_name(address)) or self.node_at(address)

    def home_name(self, address: IPAddress) -> str:
        """The name of that node; empty where it is not known."""
        return self._homes.get(str(address), "")

    def name_of(self, address: IPAddress) -> str:
        """An address, with whose it is."""
        name = self._names.get(str(address), "")
        return f"{address} ({name})" if name else str(address)


def _own(facts: Facts) -> list[str]:
    return [info.local for each in facts.addresses if each.ifname != "lo" and not each.ifname.startswith("kube-ipvs")
            for info in each.addr_info if info.scope not in ("link", "host") and info.local]


def _is_hosts(node: Node, address: IPAddress) -> bool:
    """Whether a node has an address, and not at the end of a tunnel."""
    link = node.facts.link(node.link_of(address))
    return link is not None and link.kind not in TUNNELS


def _has_tunnel(facts: Facts) -> bool:
    return any(link.kind in TUNNELS for link in facts.links)


def _lease(facts: Facts, address: IPAddress) -> str:
    """The subnet a node's flannel works with that an address is in; empty where it is in none."""
    told = facts.settings.subnet or {}
    found = (ip_network(told[key], strict=False) for key in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET") if key in told)
    return next((str(each) for each in found if each.version == address.version and address in each), "")


class Walk:
    """One journey, with its own luck."""

    def __init__(self, world: World, chance: Chance) -> None:
        self._world, self._chance = world, chance
        self._seen: dict[str, tuple[Tuple, Tuple]] = {}
        self._steps: list[Step] = []
        self._passed: dict[tuple[str, str], None] = {}

    def journey(self, question: Question) -> Journey:
        """There, and back where it got there."""
        return msgspec.structs.replace(self._both(question), passed=tuple(self._passed))

    def _both(self, question: Question) -> Journey:
        packet = Packet(question.protocol, ip_address(question.source), question.source_port, ip_address(question.target),
                        question.port)
        asked = packet.ends
        ended = self._from(packet)
        there, self._steps = tuple(self._steps), []
        if ended.what != "delivered":
            return Journey(there, (), ended.what, ended.node, ended.why, ended.mend, target=str(packet.target))
        ended = self._answer(packet, asked)
        return Journey(there, tuple(self._steps), ended.what, ended.node, ended.why, ended.mend,
                       f"{self._world.name_of(packet.target)}:{packet.target_port}", f"{packet.target} {packet.target_port}",
                       str(packet.target))

    def _answer(self, packet: Packet, asked: Tuple) -> Ended:
        got = Packet(packet.protocol, packet.target, packet.target_port, packet.source, packet.source_port, answer=True)
        ended = self._from(got)
        if ended.what not in ("delivered", "outside"):
            return Ended(ended.what, ended.node, f"the answer: {ended.why}", ended.mend)
        if got.ends != (*asked[2:], *asked[:2]):
            return Ended("lost", ended.node, f"the answer comes from {got.source}:{got.source_port}, but {asked[2]}:{asked[3]} "
                                             "was asked: it did not come back through the node that translated")
        return Ended("delivered", ended.node)

    def _from(self, packet: Packet) -> Ended:
        """From wherever its source lives."""
        home = self._world.home_of(packet.source)
        if home is None:
            return self._from_outside(packet)
        if home.kind_of(packet.source) == "local":
            return self._follow(home, packet, starts=True)
        if packet.target == packet.source:
            return Ended("delivered", home.name)  # it never leaves the pod
        link = routes.route(home.facts, Packet(0, packet.source, 0, packet.source, 0))
        if link is None:
            return Ended("lost", home.name, f"no route to the sender {packet.source}: it is not connected here")
        packet.came_by = link.link
        if link.gateway == "" and home.is_on_link(link.link, packet.target) and home.kind_of(packet.target) != "local":
            return self._bridged(home, packet, link.link)
        return self._follow(home, packet)

    def _from_outside(self, packet: Packet) -> Ended:
        node = self._world.home_of(packet.target)
        if node is None:
            return Ended("outside", "", f"{packet.source} and {packet.target} are no node's and no pod's")
        link = routes.route(node.facts, Packet(0, packet.target, 0, packet.source, 0))
        packet.came_by = link.link if link else ""
        return self._follow(node, packet)

    def _bridged(self, node: Node, packet: Packet, link: str) -> Ended:
        """Straight to a neighbour on the same bridge; rules see it only where br_netfilter shows it to them."""
        shown = node.facts.is_on("net/bridge/bridge-nf-call-iptables")
        node.steps = self._steps
        self._passed[node.name, link] = None
        node.note("bridge", f"over {link}, not routed", "seen by packet rules" if shown else "packet rules do not see it")
        if shown:
            packet.leaves_by = link
            if packet.answer:
                self._translate_back(node, packet)
            for hook in ("prerouting", "forward", "postrouting"):
                if ended := node.hook(hook, packet, self._chance):
                    return ended
            packet.take_back()
        return self._deliver(node, packet, link)

    def _follow(self, node: Node, packet: Packet, *, starts: bool = False) -> Ended:
        """From node to node until it ends."""
        for _ in range(NODES_MOST):
            node.steps = self._steps
            found = self._on(node, packet, starts=starts)
            if isinstance(found, Ended):
                return found
            following = self._next(node, packet, found)
            if isinstance(following, Ended):
                return following
            (node, link), starts = following, False
            packet.came_by, packet.leaves_by, packet.original = link, "", None
            packet.status, packet.mark, packet.priority, packet.tracked = set(), 0, 0, True
        return Ended("lost", node.name, f"after {NODES_MOST} nodes it is still on its way: the routes lead in a circle")

    def _on(self, node: Node, packet: Packet, *, starts: bool) -> Ended | Hop:
        if packet.answer:
            self._translate_back(node, packet)
        elif packet.came_by:
            node.note("arrives", f"{self._world.name_of(packet.source)} to {self._world.name_of(packet.target)}:"
                                 f"{packet.target_port}", packet.came_by)
        before = packet.ends
        found = node.send(packet, self._chance) if starts else node.arrive(packet, self._chance)
        for link in (packet.came_by, found.link if isinstance(found, Hop) else ""):
            if link:
                self._passed[node.name, link] = None
        if not packet.answer:
            self._seen.setdefault(node.name, (before, packet.ends))
        if found is None:
            packet.take_back()
            node.note("delivered", f"to {self._world.name_of(packet.target)} on this node itself")
            return Ended("delivered", node.name)
        return found

    def _translate_back(self, node: Node, packet: Packet) -> None:
        packet.stray = node.name not in self._seen
        if packet.stray:
            return
        before, after = self._seen[node.name]
        if packet.ends == (*after[2:], *after[:2]) and before != after:
            packet.target, packet.target_port = before[0], before[1]
            packet.becomes = before[2], before[3]
            packet.status = {"dnat"} if before[2:] != after[2:] else {"snat"}
            packet.original = before
            node.note("arrives", f"the answer: from {before[2]}:{before[3]} to {before[0]}", "connection tracking")

    def _next(self, node: Node, packet: Packet, hop: Hop) -> Ended | tuple[Node, str]:
        """Whoever gets it next: a pod, a node, or the other end of a tunnel."""
        link = node.facts.link(hop.link)
        if link is not None and link.kind == "vxlan":
            return self._tunnelled(node, packet, hop)
        to = ip_address(hop.gateway) if hop.gateway else packet.target
        other = self._world.node_at(to)
        if other is not None and other is not node:
            return other, other.link_of(to)
        home = self._world.home_of(packet.target)
        if home is node:
            return self._deliver(node, packet, hop.link)
        if home is not None and link is not None and link.kind in TUNNELS:
            node.note("tunnel", f"{link.kind} to {home.name}", hop.link)
            return home, hop.link
        if home is not None and (not hop.gateway or _is_hosts(home, packet.target) or not _has_tunnel(node.facts)):
            return home, home.link_of(packet.target) or hop.link  # a router between the hosts is believed
        if home is not None:
            return Ended("lost", node.name, f"{self._world.name_of(packet.target)} is on {home.name}, but the route leads out of "
                                            f"the cluster: {hop.route}")
        node.note("leaves", f"{self._world.name_of(packet.target)} is outside the cluster", hop.link)
        return Ended("outside", node.name)

    def _deliver(self, node: Node, packet: Packet, link: str) -> Ended:
        dead = next((each for each in node.facts.neighbours
                     if each.dev == link and each.dst == str(packet.target) and {"FAILED"} & set(each.state)), None)
        if dead:
            return Ended("lost", node.name, f"nobody answers for {packet.target} on {link} (neighbour FAILED)")
        if self._world.home_name(packet.target) != node.name:
            return Ended("lost", node.name, f"{packet.target} is no pod of this node: nobody has it on {link}")
        node.note("delivered", f"to {self._world.name_of(packet.target)}:{packet.target_port}", link)
        return Ended("delivered", node.name)

    def _tunnelled(self, node: Node, packet: Packet, hop: Hop) -> Ended | tuple[Node, str]:
        outer = outside_of(node, packet, hop)
        if isinstance(outer, Ended):
            return outer
        sent = node.send(outer.packet, self._chance)
        if isinstance(sent, Hop):
            self._passed[node.name, sent.link] = None
        if isinstance(sent, Ended):
            return Ended(sent.what, sent.node, f"the tunnel's packet: {sent.why}", sent.mend)
        other = self._world.node_at(outer.packet.target)
        if other is None or other is node:
            return Ended("lost", node.name, f"the forwarding entry leads to {outer.packet.target}, which is no other node's",
                         outer.mend)
        if lease := _lease(other.facts, packet.target):
            node.note("lease", f"{lease} is {other.name}'s", "its flannel's subnet file")
        other.steps = self._steps
        outer.packet.came_by = other.link_of(outer.packet.target)
        self._passed[other.name, outer.packet.came_by] = None
        got = other.arrive(outer.packet, self._chance)
        if isinstance(got, Ended):
            return Ended(got.what, got.node, f"the tunnel's packet: {got.why}", got.mend)
        link = unpack(other, outer)
        return link if isinstance(link, Ended) else (other, link)
