"""iptables mode: routes to fragments, and fragments to the words of iptables-restore.

A packet's way, of the first packet of a connection, as only that meets the nat table:

    PREROUTING, OUTPUT -> SERVICES
        STRANGERS      from outside the cluster: trees S and L, the ways under a Local policy
        OUTSIDE        mark for masquerading what is not from the cluster
        C              by the low bits of the address to a chain of a few Services: DNAT to their endpoint
            C-n-0 ...  the same of Services with n endpoints: each of them in the tree of its turn; the die is cast
                       once for all Services, at the root
            C-tcp-80   the same of a port that very many Services have
        E              external addresses, always marked
        NODEPORTS      for this node itself: N, by port
    POSTROUTING        masquerade what is marked, and a pod that reached itself (H)
    INPUT, FORWARD, OUTPUT of filter, new connections only -> UNSERVED
        D, P           addresses and ports that are dropped or refused
        U              any other port of a ClusterIP is refused
    FORWARD -> FORWARD       let what is marked pass, and what belongs to a connection that did, whatever the policy says
    INPUT -> LOOPBACK        where NodePorts answer on loopback: drop what others send there

What counts is how few rules there are, and how few matches in them: the kernel takes a table as a whole, and a change of
one rule costs as much as all there are. So a Service with few endpoints has no chain, but one rule for each of them, in a
chain that it shares with those whose addresses end in the same bits. A first packet walks a hundred rules among ten thousand
Services. Rules of different Services match different packets, so their order does not matter and a change is
`-D` and `-A`.

Containers and chains are named `table chain`. Only checked addresses and numbers reach the text, and hashes of the rest.
Pure. Read next: `proxy/render/leftovers.py`, `proxy/writers/iptables.py`.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from nodecore.net import Family

from .. import names
from ..endpoints import Endpoint
from ..ledger import Chain, Delta, Element, Fragment
from ..policy import NOBODY, Choice
from ..services import Kind, ServicePort, Way
from ..snapshot import Route
from .counting import counted
from .leftovers import Held
from .settings import UNSAID, Settings
from .ways import callers_of, claim_of, cluster_networks, local_of, node_port_networks

WIDTHS = (3, 3, 3)  # bits of an address that each level of a tree looks at: 512 leaves for any number of Services
# Of ports that very many Services share, a tree is for one port alone, so that its rules need no match for it.
COMMON = {"tcp": frozenset({80, 443, 8080, 8443, 9090})}
HAIRPIN_WIDTHS = (4,)
PORT_SHIFTS = (8, 4)  # and of a port: the chains hold those that have all but the last four bits in common
FEW = 4  # endpoints a Service has at most to go without a chain of its own
REFUSE, DROP, LEAVE = f"-j {names.PREFIX}REFUSE", "-j DROP", "-j ACCEPT"
TABLES = ("nat", "filter")
LOOPBACK = "127.0.0.0/8"
Jumps = tuple[tuple[str, str], ...]  # a built-in chain, and our rule in it
UNSERVED = "-m conntrack --ctstate NEW -j KPY-UNSERVED"
NAT_JUMPS: Jumps = (("PREROUTING", "-j KPY-SERVICES"), ("OUTPUT", "-j KPY-SERVICES"), ("POSTROUTING", "-j KPY-POSTROUTING"))
FILTER_JUMPS: Jumps = (("INPUT", UNSERVED), ("FORWARD", UNSERVED), ("FORWARD", "-j KPY-FORWARD"), ("OUTPUT", UNSERVED))
INVALID = "-m conntrack --ctstate INVALID -j DROP"
ON_LOOPBACK = f"-m conntrack --ctstate DNAT --ctorigdst {LOOPBACK}"  # goes nowhere: it counts
LOOPBACK_JUMP = "INPUT", f"! -s {LOOPBACK} -d {LOOPBACK} -j KPY-LOOPBACK"
NOTHING_HELD: Mapping[str, Held] = {}
Shared = tuple[Element | Chain, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The words for one family and one set of flags."""

    family: Family
    settings: Settings = UNSAID

    @property
    def where(self) -> str:
        """What to call it in a log."""
        return f"{self.family.nft}tables"

    def fragments(self, route: Route) -> list[Fragment]:
        """A Service port's part of the tables."""
        return [self._fragment(route, way) for way in route.port.ways]

    def _fragment(self, route: Route, way: Way) -> Fragment:
        port, anywhere = route.port, route.anywhere or NOBODY
        local = local_of(route)
        match way.kind:
            case Kind.CLUSTER_IP:
                parts = [self._part("C", port, way, route.cluster), self._undefined(way.address)]
                refusal = DROP if route.cluster.elsewhere else ""
            case Kind.NODE_PORT:
                parts = [self._part("N", port, way, anywhere)]
                parts += [self._part("L", port, way, local)] if local else []
                refusal = REFUSE if not anywhere.endpoints else DROP if local and not local.endpoints else ""
            case _:
                parts = [self._part("C" if local else "E", port, way, anywhere)]
                parts += [self._part("S", port, way, local)] if local else []
                refusal = REFUSE if not anywhere.endpoints else DROP if local and not local.endpoints else ""
        parts.append(self._unserved(port, way, refusal))
        parts.append(_Part(counted(route, way)) if self.settings.count_traffic else _Part())
        return Fragment(claim_of(port, way), tuple(item for part in parts for item in part.elements),
                        tuple(dict.fromkeys(item for part in parts for item in part.shared)))

    def _part(self, tree: str, port: ServicePort, way: Way, choice: Choice) -> _Part:
        """The way to the endpoints; nothing, if there are none, but that a Local policy lets no other way be tried."""
        key, leaf, shared = self._leaf("nat", tree, port, way)
        if not choice.endpoints:
            return _Part((Element(leaf, key, f"{key} {LEAVE}"),), shared) if tree in "SL" else _Part()
        hairpin = tuple(item for endpoint in choice.endpoints if endpoint.local or endpoint.unplaced
                        for item in self._hairpin(endpoint.address))
        if len(choice.endpoints) <= FEW and not port.affinity and way.sources is None:
            return self._turns(tree, port, way, choice.endpoints) + _Part((), hairpin)
        chain = _balanced(port, choice.endpoints)
        jump = f"-j {chain.name.partition(' ')[2]}"
        jumps = [f"-s {source} {key} {jump}" for source in callers_of(way)] if way.sources is not None else [f"{key} {jump}"]
        return _Part((Element(leaf, key, "\n".join(jumps)),), (*shared, chain, *hairpin))

    def _turns(self, tree: str, port: ServicePort, way: Way, endpoints: tuple[Endpoint, ...]) -> _Part:
        """Each endpoint in the tree of its turn; one that is alone in the tree itself."""
        made = _Part((), _rolls(tree, len(endpoints)))
        for turn, endpoint in enumerate(endpoints):
            key, leaf, shared = self._leaf("nat", names.turn(tree, len(endpoints), turn), port, way)
            made += _Part((Element(leaf, key, f"{key} {_dnat(endpoint)}"),), shared)
        return made

    def _unserved(self, port: ServicePort, way: Way, refusal: str) -> _Part:
        """What to answer to packets that were not sent on: those of callers who may not come this way are dropped."""
        key, leaf, shared = self._leaf("filter", "P" if way.kind is Kind.NODE_PORT else "D", port, way)
        rules = [f"{key} {refusal}"] if refusal else []
        if way.sources is not None:
            rules = [f"-s {source} {rule}" for rule in rules for source in callers_of(way)] + [f"{key} {DROP}"]
        return _Part((Element(leaf, key, "\n".join(rules)),), shared) if rules else _Part()

    def _leaf(self, table: str, tree: str, port: ServicePort, way: Way) -> tuple[str, str, Shared]:
        """What matches a way in, the chain where it belongs, and the chains and jumps that lead there."""
        if not way.address:
            return _to_port(port.protocol, way.port), *_port_tree(table, tree, port.protocol, way.port)
        if way.port not in COMMON.get(port.protocol, ()):
            return f"-d {way.address} {_to_port(port.protocol, way.port)}", *_address_tree(table, tree, "-d", way.address, WIDTHS)
        grove, above = _grove(table, tree, port.protocol, way.port)
        leaf, shared = _address_tree(table, grove, "-d", way.address, WIDTHS)
        return f"-d {way.address} -p {port.protocol}", leaf, (*above, *shared)

    def _undefined(self, address: str) -> _Part:
        leaf, shared = _address_tree("filter", "U", "-d", address, WIDTHS)
        return _Part((), (*shared, Element(leaf, address, f"-d {address} {REFUSE}")))

    def _hairpin(self, address: str) -> Shared:
        leaf, shared = _address_tree("nat", "H", "-s", address, HAIRPIN_WIDTHS)
        return (*shared, Element(leaf, address, f"-s {address} -d {address} -j MASQUERADE --random-fully"))

    def full_script(self, everything: Delta, held: Mapping[str, Held] = NOTHING_HELD) -> str:
        """Make our chains these and no others, each table at once; `held` is what the tables hold of us so far."""
        return "".join(self._whole(table, everything, held.get(table, Held())) for table in TABLES)

    def _whole(self, table: str, everything: Delta, held: Held) -> str:
        fixed = list(self.fixed(table))
        names_now = [*fixed_chains(table), *(name for name, _ in _chains(everything.added_chains, table))]
        gone = sorted(held.chains.difference(names_now))
        return _section(table, (
            *(f":{name} - [0:0]" for name in (*names_now, *gone)),
            *fixed,
            *_rules(everything.added_chains, table),
            *_changes("-A", everything.added, table),
            *(f"-D{line.removeprefix('-A')}" for line in held.jumps),
            *(f"-I {hook} {jump}" for hook, jump in reversed(self.jumps(table))),
            *(f"-X {name}" for name in gone),
        ))

    def delta_script(self, delta: Delta) -> str:
        """Change what has changed, each table at once."""
        return "".join(_section(table, self._changed(table, delta)) for table in TABLES)

    def _changed(self, table: str, delta: Delta) -> Iterator[str]:
        gone = {name for name, _ in _chains(delta.removed_chains, table)}
        yield from (f":{name} - [0:0]" for name, _ in _chains(delta.added_chains, table))
        yield from _rules(delta.added_chains, table)
        yield from _changes("-D", (item for item in delta.removed if item.container.partition(" ")[2] not in gone), table)
        yield from _changes("-A", delta.added, table)
        yield from (f":{name} - [0:0]" for name in sorted(gone))
        yield from (f"-X {name}" for name in sorted(gone))

    def rule_counts(self, delta: Delta, *, fixed: bool = False) -> Counter[str]:
        """How many rules more each table has after a change; `fixed` counts those that are always there as well."""
        return Counter({
            table: fixed * len(list(self.fixed(table)))
            + _count(delta.added_chains, delta.added, table) - _count(delta.removed_chains, delta.removed, table)
            for table in TABLES
        })

    def entry_counts(self, delta: Delta, *, fixed: bool = False) -> Counter[str]:
        """How many entries more the kernel has in each table after a change: a rule is one, a chain is two."""
        found = self.rule_counts(delta, fixed=fixed)
        for table in TABLES:
            chains = sum(1 for _ in _chains(delta.added_chains, table)) - sum(1 for _ in _chains(delta.removed_chains, table))
            found[table] += 2 * chains + fixed * (2 * len(fixed_chains(table)) + len(self.jumps(table)))
        return found

    def jumps(self, table: str) -> Jumps:
        """Our rules in the built-in chains, before everybody else's and in this order."""
        return NAT_JUMPS if table == "nat" else (*FILTER_JUMPS, *((LOOPBACK_JUMP,) if self._on_loopback() else ()))

    def fixed(self, table: str) -> Iterator[str]:
        """The rules that are always there."""
        for name, rules in (self._nat() if table == "nat" else self._filter()).items():
            yield from (f"-A {names.PREFIX}{name} {rule}" for rule in rules)

    def _nat(self) -> Mapping[str, list[str]]:
        mark = self.settings.mark
        own, marking = self._own(), f"-j MARK --set-xmark {mark:#x}/{mark:#x}"
        unmark = f"-j MARK --set-xmark 0x0/{mark:#x}"
        outside = [marking] if self.settings.masquerade_all else ["-j KPY-OUTSIDE"] if own else []
        return {
            "SERVICES": ["-j KPY-STRANGERS", *outside, "-j KPY-C", marking, "-j KPY-E",
                         f"{self._here()} -j KPY-NODEPORTS", unmark],
            "STRANGERS": [*(f"{match} -j RETURN" for match in own), "-m addrtype --src-type LOCAL -j RETURN", "-j KPY-S",
                          f"{self._here()} -j KPY-LOCAL-NODEPORTS"],
            "OUTSIDE": [*(f"{match} -j RETURN" for match in own), marking],
            "NODEPORTS": self._node_ports("N"),
            "LOCAL-NODEPORTS": self._node_ports("L"),
            "POSTROUTING": [f"-m mark --mark {mark:#x}/{mark:#x} -j KPY-MASQUERADE", "-m conntrack --ctstate DNAT -j KPY-H"],
            "MASQUERADE": [unmark, "-j MASQUERADE --random-fully"],
        }

    def _filter(self) -> Mapping[str, list[str]]:
        return {
            "UNSERVED": [*([ON_LOOPBACK] if self._on_loopback() else []),
                         "-j KPY-D", f"{self._here()} -j KPY-NODEPORTS", "-j KPY-U"],
            "NODEPORTS": self._node_ports("P"),
            "FORWARD": [*([INVALID] if self.settings.drop_invalid else []),
                        f"-m mark --mark {self.settings.mark:#x}/{self.settings.mark:#x} -j ACCEPT",
                        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"],
            "LOOPBACK": ["-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"],
            "REFUSE": ["-p tcp -j REJECT --reject-with tcp-reset", "-j REJECT"],
        }

    def _node_ports(self, tree: str) -> list[str]:
        """The jumps to a tree of NodePorts, for the addresses where they answer."""
        return [f"-d {network} -j KPY-{tree}" for network in node_port_networks(self.settings, self.family)] or [f"-j KPY-{tree}"]

    def _here(self) -> str:
        """The match for an address of this node where NodePorts may answer."""
        loopback = "" if self._on_loopback() else f"! -d {LOOPBACK if self.family is Family.IPV4 else '::1'} "
        return f"{loopback}-m addrtype --dst-type LOCAL"

    def _on_loopback(self) -> bool:
        return self.settings.loopback_node_ports and self.family is Family.IPV4

    def _own(self) -> list[str]:
        """The matches for callers of the cluster; none where that is not known."""
        locality = self.settings.locality
        if locality.interface:
            return [f"-i {locality.interface.removesuffix('*')}{'+' * locality.interface.endswith('*')}"]
        return [f"-s {network}" for network in cluster_networks(self.settings, self.family)]


@dataclass(frozen=True, slots=True)
class _Part:
    """One way's elements in one chain, and what they share with others."""

    elements: tuple[Element, ...] = ()
    shared: Shared = ()

    def __add__(self, other: _Part) -> _Part:
        return _Part(self.elements + other.elements, self.shared + other.shared)


def fixed_chains(table: str) -> list[str]:
    """The chains that are always there: those with a name and the roots of the trees."""
    found = (*names.NAT_CHAINS, *names.NAT_TREES) if table == "nat" else (*names.FILTER_CHAINS, *names.FILTER_TREES)
    return [f"{names.PREFIX}{name}" for name in found]


@lru_cache(maxsize=256)
def _parsed(address: str) -> tuple[Family, int]:
    whole = ip_address(address)
    return Family.of(whole), int(whole)


def _address_tree(table: str, tree: str, option: str, address: str, widths: tuple[int, ...]) -> tuple[str, Shared]:
    """The chain of a tree where an address belongs, and what leads there."""
    family, value = _parsed(address)
    return _leaf_of(table, tree, option, family, value & ((1 << sum(widths)) - 1), widths)


@lru_cache(maxsize=8192)
def _leaf_of(table: str, tree: str, option: str, family: Family, value: int, widths: tuple[int, ...]) -> tuple[str, Shared]:
    kind = IPv4Address if family is Family.IPV4 else IPv6Address
    shift, parent = 0, f"{names.PREFIX}{tree}"
    shared: list[Element | Chain] = []
    for width in widths:
        mask = ((1 << width) - 1) << shift
        shift += width
        child = f"{names.PREFIX}{tree}-{value & ((1 << shift) - 1):0{(shift + 3) // 4}x}"
        jump = f"{option} {kind(value & mask)}/{kind(mask)} -j {child}"
        shared += Chain(f"{table} {child}", ()), Element(f"{table} {parent}", child, jump)
        parent = child
    return f"{table} {parent}", tuple(shared)


@lru_cache(maxsize=1024)
def _grove(table: str, tree: str, protocol: str, port: int) -> tuple[str, Shared]:
    """The tree of those at a common port, and what leads there."""
    grove = f"{tree}-{protocol}-{port}"
    child = f"{names.PREFIX}{grove}"
    jump = f"{_to_port(protocol, port)} -j {child}"
    return grove, (Chain(f"{table} {child}", ()), Element(f"{table} {names.PREFIX}{tree}", child, jump))


def _to_port(protocol: str, port: int) -> str:
    return f"-p {protocol} -m {protocol} --dport {port}"


@lru_cache(maxsize=1024)
def _port_tree(table: str, tree: str, protocol: str, port: int) -> tuple[str, Shared]:
    """The same for a port."""
    parent = f"{names.PREFIX}{tree}"
    shared: list[Element | Chain] = []
    for shift in PORT_SHIFTS:
        child = f"{names.PREFIX}{tree}-{protocol}-{port >> shift:x}-{shift}"
        first, last = port >> shift << shift, (port >> shift << shift) + (1 << shift) - 1
        jump = f"-p {protocol} -m {protocol} --dport {first}:{last} -j {child}"
        shared += Chain(f"{table} {child}", ()), Element(f"{table} {parent}", child, jump)
        parent = child
    return f"{table} {parent}", tuple(shared)


@lru_cache(maxsize=64)
def _rolls(tree: str, count: int) -> Shared:
    """The trees of Services with so many endpoints, and the jumps that take one of them by chance."""
    if count < 2:
        return ()
    trees = [f"{names.PREFIX}{names.turn(tree, count, turn)}" for turn in range(count)]
    jumps = [f"{chance}-j {child}" for chance, child in zip(_chances(count), trees, strict=True)]
    return (*(Chain(f"nat {child}", ()) for child in trees), Element(f"nat {names.PREFIX}{tree}", f"{count}", "\n".join(jumps)))


def _chances(count: int) -> list[str]:
    """The matches that take, one after the other, each of so many with the same chance."""
    return [f"-m statistic --mode random --probability {1 / left:.10f} " for left in range(count, 1, -1)] + [""]


def _balanced(port: ServicePort, endpoints: tuple[Endpoint, ...]) -> Chain:
    """A chain of endpoints, named by its rules: those of another set of endpoints are another chain."""
    who = f"{port.service} {port.name} {port.protocol}" if port.affinity else ""
    rules = tuple(balance(f"-p {port.protocol}", endpoints, who, port.affinity))
    return Chain(f"nat {names.PREFIX}{names.BALANCED}{_hash(*rules)}", rules)


def balance(match: str, endpoints: tuple[Endpoint, ...], who: str = "", timeout: int = 0) -> Iterator[str]:
    """One of the endpoints by chance; with a timeout, the one that this client had before if that was not longer ago."""
    clients = [f"--name {names.RECENT}{_hash(who, _place(item))} --rsource " if timeout else "" for item in endpoints]
    if timeout:
        for item, client in zip(endpoints, clients, strict=True):
            yield f"{match} -m recent --update --seconds {timeout} --reap {client}{_dnat(item)}"
    for item, client, chance in zip(endpoints, clients, _chances(len(endpoints)), strict=True):
        remember = f"-m recent --set {client}" if timeout else ""
        yield f"{match} {chance}{remember}{_dnat(item)}"


def _hash(*texts: str) -> str:
    digest = hashlib.sha256("\n".join(texts).encode()).digest()
    return b32encode(digest[:10]).decode()


def _dnat(endpoint: Endpoint) -> str:
    return f"-j DNAT --to-destination {_place(endpoint)}"


def _place(endpoint: Endpoint) -> str:
    return f"[{endpoint.address}]:{endpoint.port}" if ":" in endpoint.address else f"{endpoint.address}:{endpoint.port}"


def _section(table: str, lines: Iterable[str]) -> str:
    content = "\n".join(lines)
    return f"*{table}\n{content}\nCOMMIT\n" if content else ""


def _chains(chains: Iterable[Chain], table: str) -> Iterator[tuple[str, Chain]]:
    for chain in chains:
        where, _, name = chain.name.partition(" ")
        if where == table:
            yield name, chain


def _rules(chains: Iterable[Chain], table: str) -> Iterator[str]:
    for name, chain in _chains(chains, table):
        yield from (f"-A {name} {rule}" for rule in chain.rules)


def _count(chains: Iterable[Chain], elements: Iterable[Element], table: str) -> int:
    return sum(len(chain.rules) for _, chain in _chains(chains, table)) + sum(1 for _ in _changes("-A", elements, table))


def _changes(verb: str, elements: Iterable[Element], table: str) -> Iterator[str]:
    for element in elements:
        where, _, name = element.container.partition(" ")
        if where == table:
            yield from (f"{verb} {name} {rule}" for rule in element.value.split("\n"))
