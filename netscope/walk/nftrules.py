"""nftables' rules as `nft -j list ruleset` tells them, and what they do to a packet.

    Ruleset(json, texts).chains_at("prerouting", family) -> base chains -> .judge(packet, host, chance, met)

A rule of which something cannot be read is passed over and told as such. Pure. Must not know: iptables; other nodes.
Read next: `values.py`; `host.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from netscope.walk.packet import FINAL, Chance, Packet, Ruling, Unread, is_proxys
from netscope.walk.values import PROTOCOLS, Members, Span, fits, value_of
from nodecore.net import Family, IPAddress

COMPARE = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
BITS: dict[str, Callable[[int, int], int]] = {
    "&": operator.and_, "|": operator.or_, "^": operator.xor, "<<": operator.lshift, ">>": operator.rshift}
SILENT = {"counter", "log", "limit", "quota", "comment", "set", "ct count", "last", "meter", "ct helper", "flow", "secmark",
          "ct timeout", "ct expectation", "dup"}
ENDS = ("accept", "drop", "return", "continue")
DEPTH = 32
Texts = Mapping[str, str]  # "family table chain handle" -> the rule as nft writes it


class Host(Protocol):
    """What rules ask about the node."""

    def kind_of(self, address: IPAddress) -> str:
        """`local`, `unicast`, `multicast`, `broadcast`, as fib's `type` has it."""
        ...

    def address_on(self, link: str, family: Family) -> IPAddress | None:
        """The one that masquerading takes."""
        ...


@dataclass(frozen=True, slots=True)
class Met:
    """A rule that said something: where, its text, what it said, and what it made of the packet's addresses."""

    place: str
    rule: str
    verdict: str
    handle: int = 0


class Ruleset:
    """All tables of a node."""

    def __init__(self, items: Sequence[Mapping[str, Any]], texts: Texts,
                 without: frozenset[tuple[str, str]] = frozenset()) -> None:
        self._texts = texts
        self._rules: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self._sets: dict[tuple[str, str, str], Any] = {}
        self._bases: list[dict[str, Any]] = []
        for item in items:
            for kind, each in item.items():
                if kind in ("metainfo", "table") or (each.get("family"), each.get("table")) in without:
                    continue
                if kind == "rule":
                    self._rules.setdefault((each["family"], each["table"], each["chain"]), []).append(each)
                elif kind in ("set", "map"):
                    self._sets[each["family"], each["table"], each["name"]] = each.get("elem", [])
                elif kind == "chain" and each.get("hook"):
                    self._bases.append(each)

    def chains_at(self, hook: str, family: Family) -> list[BaseChain]:
        """The base chains of a hook, in no order."""
        return [BaseChain(self, each) for each in self._bases
                if each["hook"] == hook and each["family"] in (family.nft, "inet")]

    def rules(self, place: tuple[str, str, str]) -> list[dict[str, Any]]:
        """A chain's."""
        return self._rules.get(place, [])

    def text(self, rule: Mapping[str, Any]) -> str:
        """As nft writes it."""
        key = " ".join(str(rule[name]) for name in ("family", "table", "chain", "handle"))
        return self._texts.get(key, f"rule {rule['handle']}")

    def members(self, rule: Mapping[str, Any], wanted: Any) -> Members:
        """A set or map, by its name or written out in the rule."""
        if isinstance(wanted, str):
            place = rule["family"], rule["table"], wanted.removeprefix("@")
            found = self._sets.get(place, [])
            if not isinstance(found, Members):
                found = self._sets[place] = Members.of(found)
            return found
        return Members.of(wanted["set"])


@dataclass(frozen=True, slots=True)
class BaseChain:
    """A chain that a hook calls."""

    ruleset: Ruleset
    chain: Mapping[str, Any]

    @property
    def priority(self) -> int:
        """When, among those of the same hook."""
        return int(self.chain.get("prio", 0))

    @property
    def translates(self) -> bool:
        """Whether it is of type nat: those see the first packet of a connection only."""
        return bool(self.chain.get("type") == "nat")

    @property
    def place(self) -> str:
        """As nft's commands name it."""
        return f"{self.chain['family']} {self.chain['table']} {self.chain['name']}"

    def judge(self, packet: Packet, host: Host, chance: Chance, met: list[Met]) -> Ruling:
        """What this chain says."""
        table = self.chain["family"], self.chain["table"]
        verdict = Walk(self.ruleset, packet, host, chance, met).chain((*table, self.chain["name"]), 0)
        if verdict in ("accept", *FINAL):
            last = met[-1]
            _, owner, chain = last.place.split(" ", 2)
            deleted = verdict in FINAL and not is_proxys(owner, chain)
            return Ruling(verdict, f"{last.place}: {last.rule}",
                          f"nft delete rule {last.place} handle {last.handle}" if deleted else "")
        policy = self.chain.get("policy", "accept")
        if policy in FINAL:
            return Ruling(policy, f"{self.place}: policy {policy}", f"nft chain {self.place} '{{ policy accept; }}'")
        return Ruling("accept")


@dataclass(slots=True)
class Walk:
    """One packet's walk through one base chain and what it calls."""

    ruleset: Ruleset
    packet: Packet
    host: Host
    chance: Chance
    met: list[Met]

    def chain(self, place: tuple[str, str, str], depth: int) -> str:
        """`accept`, `drop`, `reject`, or `` where no rule decided."""
        if depth > DEPTH:
            return ""
        for rule in self.ruleset.rules(place):
            try:
                verdict = self._rule(rule)
            except Unread as unread:
                self._meet(rule, f"cannot be read ({unread}), passed over")
                continue
            kind, _, target = verdict.partition(" ")
            if kind in ("jump", "goto"):
                before = len(self.met)
                found = self.chain((place[0], place[1], target), depth + 1)
                if not found and len(self.met) == before:
                    self.met.pop()  # nothing there had anything to say
                if found or kind == "goto":
                    return found
            elif kind == "return":
                return ""
            elif kind and kind != "continue":
                return kind
        return ""

    def _meet(self, rule: Mapping[str, Any], verdict: str) -> None:
        place = f"{rule['family']} {rule['table']} {rule['chain']}"
        self.met.append(Met(place, self.ruleset.text(rule), verdict, rule["handle"]))

    def _rule(self, rule: Mapping[str, Any]) -> str:
        """The verdict, empty where it does not fit or says nothing; `jump x` and `goto x`."""
        for statement in rule["expr"]:
            verdict = self._statement(rule, statement)
            if verdict is None:
                return ""
            if verdict:
                self._meet(rule, verdict)
                return verdict.partition(":")[0] if not verdict.startswith(("jump", "goto")) else verdict
        return ""

    def _statement(self, rule: Mapping[str, Any], statement: Any) -> str | None:
        """None: the rule does not fit; empty: go on; else the verdict."""
        if isinstance(statement, str):  # what has no JSON form: `update @set {...}`
            return ""
        ((name, body),) = statement.items()
        match name:
            case "match":
                return "" if self._matches(rule, body) else None
            case "vmap":
                return self._look_up(rule, body)
            case "accept" | "drop" | "return" | "continue" | "jump" | "goto":
                return _verdict(statement)
            case "reject":
                return self._reject(body or {})
            case "mangle":
                return self._mangle(rule, body)
            case "dnat" | "snat" | "masquerade" | "redirect":
                return self._translate(rule, name, body or {})
            case "notrack":
                self.packet.tracked = False
                return ""
        if name in SILENT:
            return ""
        raise Unread(name if name != "xt" else f"iptables' {body.get('name', 'module')}")

    def _look_up(self, rule: Mapping[str, Any], body: Mapping[str, Any]) -> str | None:
        key, members = self._value(rule, body["key"]), self.ruleset.members(rule, body["data"])
        found = [members.find(each) for each in (key if isinstance(key, frozenset) else [key])]
        return next((_verdict(each) for each in found if each is not None), None)

    def _reject(self, body: Mapping[str, Any]) -> str | None:
        if body.get("type") == "tcp reset" and self.packet.protocol != PROTOCOLS["tcp"]:
            return None
        return "reject"

    def _mangle(self, rule: Mapping[str, Any], body: Mapping[str, Any]) -> str | None:
        value = self._value(rule, body["value"])
        if value is None:
            return None
        match body["key"]:
            case {"meta": {"key": "mark"}}:
                self.packet.mark = int(value)
            case {"meta": {"key": "priority"}}:
                self.packet.priority = int(value)
        return ""

    def _translate(self, rule: Mapping[str, Any], name: str, body: Mapping[str, Any]) -> str | None:
        packet, family = self.packet, Family.of(self.packet.source)
        if name == "masquerade":
            address: Any = self.host.address_on(packet.leaves_by, family)
            port: Any = None
        elif name == "redirect":
            address, port = self.host.address_on(packet.came_by or "lo", family), body.get("port")
        else:
            address = self._value(rule, body["addr"]) if "addr" in body else None
            port = self._value(rule, body["port"]) if "port" in body else None
            if "addr" in body and address is None:
                return None
        if isinstance(address, tuple):
            address, port = address[0], address[1]
        return translate(packet, source=name in ("snat", "masquerade"), address=address, port=port)

    def _matches(self, rule: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
        left, right, op = self._value(rule, body["left"]), body["right"], body["op"]
        if left is None:
            return False
        if isinstance(left, frozenset):
            return bool(left & _words(right)) is (op != "!=")
        if op in COMPARE:
            return bool(COMPARE[op](left, value_of(right)))
        return self._inside(rule, left, right) is (op != "!=")

    def _inside(self, rule: Mapping[str, Any], left: Any, right: Any) -> bool:
        if isinstance(right, str) and right.startswith("@"):
            return self.ruleset.members(rule, right).find(left) is not None
        if isinstance(right, dict) and "set" in right:
            return self.ruleset.members(rule, right).find(left) is not None
        if isinstance(right, list):
            return any(fits(left, value_of(each)) for each in right)
        return fits(left, value_of(right))

    def _value(self, rule: Mapping[str, Any], expression: Any) -> Any:
        """What an expression is for this packet; None where the packet has no such thing or a map no such key."""
        match expression:
            case {"payload": {"protocol": str(protocol), "field": str(field)}}:
                return self._header(protocol, field)
            case {"meta": {"key": str(key)}}:
                return self._meta(key)
            case {"ct": {"key": str(key)}}:
                return self._tracking(key, str(expression["ct"].get("dir", "original")))
            case {"fib": {"result": "type", "flags": flags}}:
                return self.host.kind_of(self.packet.source if "saddr" in flags else self.packet.target)
            case {"concat": list(parts)}:
                values = tuple(self._value(rule, part) for part in parts)
                return None if None in values else values
            case {"numgen": {"mod": int(count)}}:
                return self.chance.choose(count) + int(expression["numgen"].get("offset", 0))
            case {"jhash": {"mod": int(count)}} | {"symhash": {"mod": int(count)}}:
                return self.chance.choose(count)
            case {"map": {"key": key, "data": data}}:
                found = self.ruleset.members(rule, data).find(self._value(rule, key))
                return None if found is None else value_of(found)
            case dict() if (name := next(iter(expression))) in BITS:
                left, right = (self._value(rule, each) for each in expression[name])
                return None if left is None or right is None else BITS[name](left, right)
            case int() | str():
                return value_of(expression)
            case {"prefix": _} | {"range": _}:
                return value_of(expression)
        raise Unread(str(next(iter(expression))) if isinstance(expression, dict) else str(expression))

    def _header(self, protocol: str, field: str) -> Any:
        packet = self.packet
        if protocol in ("ip", "ip6"):
            if Family.of(packet.source).nft != protocol:
                return None
            known = {"saddr": packet.source, "daddr": packet.target, "protocol": packet.protocol, "nexthdr": packet.protocol,
                     "ttl": 63, "hoplimit": 63, "version": Family.of(packet.source).value}
        else:
            if protocol != "th" and PROTOCOLS.get(protocol) != packet.protocol:
                return None
            known = {"sport": packet.source_port, "dport": packet.target_port}
        if field not in known:
            raise Unread(f"{protocol} {field}")
        return known[field]

    def _meta(self, key: str) -> Any:
        packet = self.packet
        known: dict[str, Any] = {
            "l4proto": packet.protocol, "mark": packet.mark, "priority": packet.priority, "iifname": packet.came_by,
            "oifname": packet.leaves_by, "iif": packet.came_by, "oif": packet.leaves_by, "pkttype": "host",
            "nfproto": 2 if packet.source.version == 4 else 10, "protocol": "ip" if packet.source.version == 4 else "ip6"}
        if key not in known:
            raise Unread(f"meta {key}")
        return known[key]

    def _tracking(self, key: str, direction: str) -> Any:
        packet = self.packet
        if key in ("state", "status"):
            return frozenset({packet.state} if key == "state" else packet.status)
        if key == "direction":
            return "reply" if packet.answer else "original"
        if key == "mark":
            return 0
        source, source_port, target, target_port = packet.first
        known = {"saddr": source, "daddr": target, "proto-src": source_port, "proto-dst": target_port,
                 "l3proto": source.version, "protocol": packet.protocol}
        name = key.rpartition(" ")[2]
        if direction != "original" or name not in known:
            raise Unread(f"ct {direction} {key}")
        return known[name]


def _words(right: Any) -> set[str]:
    """One word, several, or several in a set."""
    if isinstance(right, dict):
        right = right.get("set") or right.get("|") or []
    return set(map(str, right)) if isinstance(right, list) else {str(right)}


def _verdict(found: Any) -> str:
    if isinstance(found, dict):
        ((name, body),) = found.items()
        if name in ("jump", "goto"):
            return f"{name} {body['target']}"
        if name in ENDS:
            return str(name)
    raise Unread(f"verdict {found}")


def translate(packet: Packet, *, source: bool, address: IPAddress | None, port: Any) -> str:
    """Give the packet another source or target; says so."""
    if isinstance(port, Span):
        port = port.low
    packet.original = packet.first
    if source:
        packet.source = address or packet.source
        packet.source_port = port or packet.source_port
        packet.status.add("snat")
        return f"accept: source {packet.source}"
    packet.target = address or packet.target
    packet.target_port = port or packet.target_port
    packet.status.add("dnat")
    return f"accept: to {packet.target}:{packet.target_port}"
