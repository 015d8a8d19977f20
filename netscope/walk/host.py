"""One node: its hooks in the kernel's order, and where a packet goes from there.

    arrive:  prerouting -> here? ipvs, input  |  reverse path, route, forward, postrouting -> by which link, to whom
    send:    output -> route -> postrouting -> by which link, to whom

Pure. Must not know: other nodes. Read next: `journey.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_interface

from netscope.facts import Facts
from netscope.walk import ipvs, routes
from netscope.walk.ipsets import IpSets
from netscope.walk.iptables import BaseChain as IptablesChain
from netscope.walk.iptables import read as read_iptables
from netscope.walk.nftrules import BaseChain, Met, Ruleset
from netscope.walk.packet import FINAL, Chance, Packet, Step
from netscope.walk.routes import Hop
from nodecore.net import Family, IPAddress

STRICT = "1"
FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
OWNED = ("filter", "nat", "mangle", "raw", "security")


@dataclass(frozen=True, slots=True)
class Ended:
    """The way ends: `delivered`, `dropped`, `rejected`, `lost` or `outside`; why, and what would mend it."""

    what: str
    node: str
    why: str = ""
    mend: str = ""


class Node:
    """What a packet meets on one node."""

    def __init__(self, name: str, facts: Facts) -> None:
        self.name, self.facts = name, facts
        self.steps: list[Step] = []
        sets, rules = IpSets(facts.rules.ipsets), facts.rules
        self._tables = {family: [table for variant in ("nft", "legacy")
                                 for table in read_iptables(rules.iptables.get(f"{variant} {family}", ""),
                                                            f"iptables-{variant}", sets)] for family in ("ip", "ip6")}
        theirs = frozenset((family, name) for family in ("ip", "ip6") if f"nft {family}" in rules.iptables for name in OWNED)
        self._ruleset = Ruleset(rules.nft, rules.texts, theirs)
        self._servers = ipvs.VirtualServers(rules.ipvs)
        self._own = {ip_address(info.local): each.ifname for each in facts.addresses for info in each.addr_info if info.local}

    def kind_of(self, address: IPAddress) -> str:
        """As fib's `type` has it."""
        if address in self._own or address.is_loopback:
            return "local"
        return "multicast" if address.is_multicast else "unicast"

    def link_of(self, address: IPAddress) -> str:
        """The link that has an address."""
        return self._own.get(address, "")

    def address_on(self, link: str, family: Family) -> IPAddress | None:
        """The one that masquerading takes."""
        found = [ip_address(info.local) for info in self.facts.addresses_of(link)]
        return next((each for each in found if Family.of(each) is family), None)

    def is_on_link(self, link: str, address: IPAddress) -> bool:
        """Whether an address is in a network that a link of this node is in."""
        return any(address in ip_interface(f"{info.local}/{info.prefixlen}").network
                   for info in self.facts.addresses_of(link) if ip_address(info.local).version == address.version)

    def note(self, stage: str, what: str, why: str = "") -> None:
        """Remember a step."""
        self.steps.append(Step(self.name, stage, what, why))

    def hook(self, name: str, packet: Packet, chance: Chance) -> Ended | None:
        """All chains of a hook by their priorities; None where nobody objects."""
        family = Family.of(packet.source)
        chains: list[BaseChain | IptablesChain] = [*self._ruleset.chains_at(name, family)]
        for table in self._tables[family.nft]:
            chains += table.chains_at(name)
        translated = False
        for chain in sorted(chains, key=lambda each: each.priority):
            if chain.translates and (translated or packet.answer or not packet.tracked):
                continue
            met: list[Met] = []
            before = packet.ends
            ruling = chain.judge(packet, self, chance, met)
            translated |= chain.translates and packet.ends != before
            for each in met:
                self.note(name, each.verdict, f"{each.place}: {each.rule}")
            if ruling.verdict in FINAL:
                if not met or f"{met[-1].place}: {met[-1].rule}" != ruling.rule:
                    self.note(name, ruling.verdict, ruling.rule)
                return Ended("dropped" if ruling.verdict == "drop" else "rejected", self.name, ruling.rule, ruling.mend)
        return None

    def arrive(self, packet: Packet, chance: Chance) -> Ended | Hop | None:
        """A packet came in by `packet.came_by`: None where it is for this node itself."""
        packet.leaves_by = ""
        if ended := self.hook("prerouting", packet, chance):
            return ended
        if self.kind_of(packet.target) == "local":
            server = self._servers.find(packet)
            if server is None:
                packet.original = packet.first
                return self.hook("input", packet, chance)
            return self._balanced(server, packet, chance)
        return self._disbelieved(packet) or self._forward(packet, chance)

    def _balanced(self, server: ipvs.Server, packet: Packet, chance: Chance) -> Ended | Hop:
        said = ipvs.choose(server, packet, chance)
        self.note("ipvs", said or "nobody is behind it", server.text)
        if not said:
            return Ended("rejected", self.name, f"the virtual server {server.text} has nobody behind it")
        return self._leave(packet, chance)

    def _disbelieved(self, packet: Packet) -> Ended | None:
        """Reverse path checks: would an answer leave by where this came in?"""
        if packet.source.version == 6:
            return None
        own = f"net/ipv4/conf/{packet.came_by}/rp_filter"
        if max(self.facts.sysctls.get(each, "0") for each in ("net/ipv4/conf/all/rp_filter", own)) != STRICT:
            return None
        back = routes.route(self.facts, Packet(packet.protocol, packet.target, 0, packet.source, 0, came_by=packet.came_by))
        if back is not None and back.link == packet.came_by:
            return None
        return Ended("lost", self.name, f"rp_filter: {packet.source} came in by {packet.came_by}, but is answered by "
                                        f"{back.link if back else 'nobody'}", f"sysctl -w {own}=2")

    def _forward(self, packet: Packet, chance: Chance) -> Ended | Hop:
        switch = FORWARDING[packet.source.version]
        if not self.facts.is_on(switch):
            return Ended("lost", self.name, f"this node forwards no packets ({switch} = 0)", f"sysctl -w {switch}=1")
        hop = self._route(packet)
        if isinstance(hop, Ended):
            return hop
        return self.hook("forward", packet, chance) or self._last(packet, hop, chance)

    def _route(self, packet: Packet) -> Ended | Hop:
        hop = routes.route(self.facts, packet)
        if hop is None or hop.refusal:
            why = f"no route to {packet.target}" if hop is None else f"the route says {hop.refusal}: {hop.route}"
            return Ended("lost", self.name, why)
        self.note("route", f"to {packet.target} by {hop.link}" + (f" via {hop.gateway}" if hop.gateway else ""), hop.route)
        packet.leaves_by = hop.link
        return hop

    def _leave(self, packet: Packet, chance: Chance) -> Ended | Hop:
        hop = self._route(packet)
        return hop if isinstance(hop, Ended) else self._last(packet, hop, chance)

    def _last(self, packet: Packet, hop: Hop, chance: Chance) -> Ended | Hop:
        """Postrouting; an answer gets the source back that was asked."""
        ended = self.hook("postrouting", packet, chance)
        packet.take_back()
        return ended or hop

    def send(self, packet: Packet, chance: Chance) -> Ended | Hop | None:
        """A packet that begins on this node itself: None where it is for this node too."""
        target = packet.target
        first = self._out(packet)
        if isinstance(first, Ended):
            return first
        if ended := self.hook("output", packet, chance):
            return ended
        if self.kind_of(packet.target) == "local":
            if server := self._servers.find(packet):
                return self._balanced(server, packet, chance)
            packet.came_by = "lo"
            return self.hook("postrouting", packet, chance) or self.hook("input", packet, chance)
        if packet.target != target:
            first = self._out(packet)
        if isinstance(first, Ended):
            return first
        return self._last(packet, first, chance)

    def _out(self, packet: Packet) -> Ended | Hop:
        if self.kind_of(packet.target) == "local":
            packet.leaves_by = "lo"
            return Hop("lo", "", "local")
        return self._route(packet)
