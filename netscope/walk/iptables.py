"""iptables' rules as `iptables-save` tells them, and what they do to a packet: of legacy tables and of those inside nftables.

A rule with a match that cannot be read is passed over and told as such. Pure. Must not know: nft; other nodes.
Read next: `ipsets.py`; `host.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address, ip_network

from netscope.walk.ipsets import IpSets
from netscope.walk.nftrules import DEPTH, Host, Met, translate
from netscope.walk.packet import FINAL, Chance, Packet, Ruling, Unread, is_proxys
from netscope.walk.values import PROTOCOLS
from nodecore.net import Family, IPAddress

PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
NAT = {"PREROUTING": -100, "OUTPUT": -100, "INPUT": 100, "POSTROUTING": 100}
FLAGS = {"--random-fully", "--random", "--syn", "--rsource", "--rdest", "--reap", "--rttl", "--physdev-is-bridged",
         "--physdev-is-in", "--physdev-is-out", "--socket-exists", "--persistent", "--limit-iface-in", "--limit-iface-out",
         "--save-mark", "--restore-mark", "--notrack", "--ipvs", "--set", "--update", "--rcheck", "--nowildcard", "--transparent",
         "--strict", "--clamp-mss-to-pmtu", "--checksum-fill", "--log-uid", "--packet-type"}
LISTS = {"--state", "--ctstate", "--ctstatus"}
PASSES = {"LOG", "NFLOG", "TRACE", "CONNMARK", "TCPMSS", "CHECKSUM", "CT", "NOTRACK", "SET", "AUDIT", "TEE", "CLASSIFY", "DSCP"}
IGNORED = {"--comment", "--limit", "--limit-burst", "--reject-with", "--mask", "--seconds", "--name", "--mode", "--log-prefix",
           "--log-level", "--nflog-prefix", "--nflog-group", "--nfmask", "--ctmask", "--set-mss", "--hitcount", "--nfacct-name",
           "--zone", "--helper", "--zone-orig", "--hashlimit-upto", "--hashlimit-burst", "--hashlimit-mode", "--hashlimit-name",
           "--clamp-mss-to-pmtu", "--checksum-fill", "--random-fully", "--random", "--reap", "--rsource", "--persistent",
           "--to-destination", "--to-source", "--to-ports", "--set-xmark", "--nflog-size", "--notrack", "--save-mark",
           "--restore-mark", "--nflog-threshold", "--set-mark", "--rdest", "--every"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One `-A` line: the line, its options (name, negated, value), and where it leads."""

    text: str
    options: tuple[tuple[str, bool, str], ...]
    target: str
    goes: bool = False

    def value(self, name: str) -> str:
        """Of an option; empty where it is not there."""
        return next((value for option, _, value in self.options if option == name), "")


@dataclass(slots=True)
class Table:
    """One table of one variant and family."""

    name: str
    where: str
    sets: IpSets
    policies: dict[str, str] = field(default_factory=dict)
    chains: dict[str, list[Rule]] = field(default_factory=dict)

    def chains_at(self, hook: str) -> list[BaseChain]:
        """The built-in chain of a hook, if this table has it."""
        name = hook.upper()
        return [BaseChain(self, name)] if self.policies.get(name, "-") != "-" else []


def read(text: str, where: str, sets: IpSets) -> list[Table]:
    """All tables of an `iptables-save`; `where` says whose they are."""
    tables: list[Table] = []
    for line in text.splitlines():
        if line.startswith("*"):
            tables.append(Table(line[1:].strip(), where, sets))
        elif line.startswith(":") and tables:
            name, policy, *_ = line[1:].split()
            tables[-1].policies[name] = policy
            tables[-1].chains.setdefault(name, [])
        elif line.startswith("-A ") and tables:
            _, chain, rest = line.split(" ", 2) if line.count(" ") > 1 else (*line.split(" "), "")
            tables[-1].chains.setdefault(chain, []).append(_rule(line, rest))
    return tables


def _rule(line: str, rest: str) -> Rule:
    options: list[tuple[str, bool, str]] = []
    target, goes, negated = "", False, False
    words = iter(shlex.split(rest) if '"' in rest else rest.split())
    for word in words:
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):
            target, goes = next(words), word == "-g"
        elif word == "-m":
            next(words)
        else:
            options.append((word, negated, _argument(word, words)))
        negated = False
    return Rule(line, tuple(options), target, goes)


def _argument(word: str, words: Iterator[str]) -> str:
    if word in FLAGS:
        return ""
    if word in ("--match-set", "--tcp-flags"):
        return f"{next(words)} {next(words)}"
    return next(words, "")


@dataclass(frozen=True, slots=True)
class BaseChain:
    """A built-in chain."""

    table: Table
    name: str

    @property
    def priority(self) -> int:
        """When, among those of the same hook."""
        return NAT.get(self.name, 0) if self.table.name == "nat" else PRIORITIES.get(self.table.name, 0)

    @property
    def translates(self) -> bool:
        """Whether only the first packet of a connection meets it."""
        return self.table.name == "nat"

    def judge(self, packet: Packet, host: Host, chance: Chance, met: list[Met]) -> Ruling:
        """What this chain says."""
        verdict = Walk(self.table, packet, host, chance, met).chain(self.name, 0)
        if verdict:
            last = met[-1]
            deleted = verdict in FINAL and not is_proxys("", last.place.rpartition(" ")[2])
            mend = f"{self._program(packet)} -w -t {self.table.name} -D {last.rule[3:]}" if deleted else ""
            return Ruling(verdict, f"{last.place}: {last.rule}", mend)
        if self.table.policies[self.name] == "DROP":
            return Ruling("drop", f"{self.table.where} {self.table.name} {self.name}: policy DROP",
                          f"{self._program(packet)} -w -t {self.table.name} -P {self.name} ACCEPT")
        return Ruling("accept")

    def _program(self, packet: Packet) -> str:
        return f"{'iptables' if packet.source.version == 4 else 'ip6tables'}-{self.table.where.rpartition('-')[2]}"


@dataclass(slots=True)
class Walk:
    """One packet's walk through one built-in chain and what it calls."""

    table: Table
    packet: Packet
    host: Host
    chance: Chance
    met: list[Met]

    def chain(self, name: str, depth: int) -> str:
        """`accept`, `drop`, `reject`, or `` where no rule decided."""
        if depth > DEPTH:
            return ""
        for rule in self.table.chains.get(name, ()):
            try:
                if not self._fits(rule):
                    continue
                verdict = self._target(rule)
            except Unread as unread:
                self._meet(name, rule, f"cannot be read ({unread}), passed over")
                continue
            if verdict == "return":
                return ""
            if verdict == "call":
                self._meet(name, rule, f"{'goto' if rule.goes else 'jump'} {rule.target}")
                before = len(self.met)
                found = self.chain(rule.target, depth + 1)
                if not found and len(self.met) == before:
                    self.met.pop()  # nothing there had anything to say
                if found or rule.goes:
                    return found
            elif verdict:
                self._meet(name, rule, verdict)
                return verdict.partition(":")[0]
        return ""

    def _meet(self, chain: str, rule: Rule, verdict: str) -> None:
        self.met.append(Met(f"{self.table.where} {self.table.name} {chain}", rule.text, verdict))

    def _fits(self, rule: Rule) -> bool:
        for name, negated, value in rule.options:
            fits = self._option(rule, name, value)
            if fits is not None and fits is negated:
                return False
        return True

    def _option(self, rule: Rule, name: str, value: str) -> bool | None:
        """Whether the packet has it; None for what says nothing about the packet."""
        packet = self.packet
        match name:
            case "-s" | "-d":
                return _in_network(packet.source if name == "-s" else packet.target, value)
            case "-p":
                return value == "all" or PROTOCOLS.get(value, value) == packet.protocol or value == str(packet.protocol)
            case "-i" | "-o":
                return _is_link(packet.came_by if name == "-i" else packet.leaves_by, value)
            case "--mark":
                wanted, _, mask = value.partition("/")
                return packet.mark & int(mask or "0xffffffff", 0) == int(wanted, 0)
            case "--probability":
                return self.chance.choose(2) == 0
            case "--packet":
                return self.chance.choose(2) == 0
            case "--match-set":
                return self.table.sets.has(*value.split(" ", 1), packet=packet)
            case "--rcheck" | "--update":
                return False  # nobody is remembered: what the first packet of a client meets
            case "--pol" | "--physdev-is-bridged" | "--physdev-in" | "--physdev-out":
                return False
            case "--dst-type" | "--src-type":
                kind = self.host.kind_of(packet.target if name == "--dst-type" else packet.source)
                return kind.upper() in value.split(",")
        ports = self._ports(name, value)
        return ports if ports is not None else self._more(name, value)

    def _ports(self, name: str, value: str) -> bool | None:
        packet = self.packet
        match name:
            case "--dport" | "--dports" | "--destination-port":
                numbers = [packet.target_port]
            case "--sport" | "--sports" | "--source-port":
                numbers = [packet.source_port]
            case "--ports":
                numbers = [packet.source_port, packet.target_port]
            case _:
                return None
        return any(_in_ports(number, value) for number in numbers)

    def _more(self, name: str, value: str) -> bool | None:
        packet = self.packet
        if name in LISTS:
            have = {packet.state.upper(), *(each.upper() for each in packet.status)}
            return bool(have & set(value.split(",")))
        if name == "--ctdir":
            return (value == "REPLY") is packet.answer
        if name in ("--ctorigdst", "--ctorigsrc"):
            return _in_network(packet.first[2] if name == "--ctorigdst" else packet.first[0], value)
        if name == "--ctorigdstport":
            return _in_ports(packet.first[3], value)
        if name == "--syn":
            return packet.protocol == PROTOCOLS["tcp"] and not packet.answer
        if name == "--set" or name in IGNORED:
            return None
        raise Unread(name)

    def _target(self, rule: Rule) -> str:
        packet, name = self.packet, rule.target
        if name in ("ACCEPT", "DROP", "REJECT", "RETURN"):
            return name.lower()
        if name == "MARK":
            _mark(packet, rule)
            return ""
        if name in ("DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"):
            return self._translate(rule)
        if name in ("CT", "NOTRACK") and (name == "NOTRACK" or any(option == "--notrack" for option, _, _ in rule.options)):
            packet.tracked = False
            return ""
        if not name or name in PASSES:
            return ""
        if name in self.table.chains:
            return "call"
        raise Unread(f"target {name}")

    def _translate(self, rule: Rule) -> str:
        packet = self.packet
        family = Family.of(packet.source)
        match rule.target:
            case "MASQUERADE":
                return translate(packet, source=True, address=self.host.address_on(packet.leaves_by, family), port=None)
            case "REDIRECT":
                address = self.host.address_on(packet.came_by or "lo", family)
                return translate(packet, source=False, address=address, port=int(rule.value("--to-ports") or 0))
            case "DNAT" | "SNAT":
                source = rule.target == "SNAT"
                address, port = _end(rule.value("--to-source" if source else "--to-destination"))
                return translate(packet, source=source, address=address, port=port)
        raise Unread(f"target {rule.target}")


def _mark(packet: Packet, rule: Rule) -> None:
    for option, change in MARKS.items():
        if text := rule.value(option):
            value, _, mask = text.partition("/")
            packet.mark = change(packet.mark, int(value, 0), int(mask or "0xffffffff", 0))


MARKS: Mapping[str, Callable[[int, int, int], int]] = {
    "--set-xmark": lambda mark, value, mask: mark & ~mask & 0xFFFFFFFF ^ value,
    "--set-mark": lambda mark, value, mask: mark & ~(mask | value) & 0xFFFFFFFF | value,
    "--or-mark": lambda mark, value, _: mark | value, "--and-mark": lambda mark, value, _: mark & value,
    "--xor-mark": lambda mark, value, _: mark ^ value}


def _in_network(address: IPAddress, text: str) -> bool:
    version, base, bits = _mask_of(text)
    return address.version == version and int(address) & bits == base


@lru_cache(maxsize=1 << 16)
def _mask_of(text: str) -> tuple[int, int, int]:
    """IP version, what the masked address has to be, and the mask: which may have holes, as a tree of chains has them."""
    base, _, mask = text.partition("/")
    if not mask or mask.isdigit():
        network = ip_network(text, strict=False)
        return network.version, int(network.network_address), int(network.netmask)
    bits = int(ip_address(mask))
    return ip_address(base).version, int(ip_address(base)) & bits, bits


def _is_link(name: str, wanted: str) -> bool:
    return name.startswith(wanted[:-1]) if wanted.endswith("+") else name == wanted


def _in_ports(number: int, text: str) -> bool:
    for part in text.split(","):
        low, _, high = part.partition(":")
        if int(low or 0) <= number <= int((high or 65535) if ":" in part else low):
            return True
    return False


def _end(text: str) -> tuple[IPAddress | None, int | None]:
    """`10.0.0.1:80`, `[fd00::1]:80`, `10.0.0.1`, `:80`; of ranges the first."""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    return (ip_address(host.partition("-")[0]) if host else None), int(port.partition("-")[0]) if port else None
