"""nftables mode: routes to fragments, and fragments to nft's words.

A packet's way:

    nat-prerouting, nat-output -> services: address . protocol . port in map `services`? goto cluster-N
                                            for this node itself: protocol . port in `nodeports`? goto nodeport-N
    cluster-N   one chain for all Services with N endpoints: a random number below N
    cluster-sticky-N-T   the number of the client's earlier endpoint, if it still answers, or else a random one
    cluster-go   to the endpoint that has this number, by map `cluster-endpoints`
    unserved    what no endpoint was found for: a Service without endpoints, or an undefined port of its address, is refused
    nat-postrouting   masquerade what is marked, and a pod that reached itself

All hooks are of type nat, refusing included: the kernel asks them about the first packet of a connection only, and no
other packet costs anything.

So a Service is elements of maps and no chains: a change costs what changed. The number travels from rule to rule in
the packet's priority, which is cleared again, and not in its mark, whose bits belong to others as well. Maps are
declared with `type` throughout: nft 1.0.6 reads a `typeof` with ports back wrongly, and a rule that is added to such a
table later would match TCP only. (The one exception has no ports in it.)

Pure; only checked addresses and numbers reach the text. Read next: `proxy/stale.py`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from nodecore.net import Family

from .. import names
from ..endpoints import Endpoint
from ..ledger import Chain, Delta, Element, Fragment
from ..names import OWN_MAPS, PATHS, Path
from ..policy import NOBODY, Choice
from ..services import Kind, ServicePort, Way
from ..snapshot import Route
from . import counting
from .nftread import Container, There, changes, declared
from .nftwords import chain_lines, element_words
from .settings import UNSAID, Settings
from .ways import callers_of, claim_of, cluster_networks, local_of, node_port_networks

REFUSE, DROP = f"goto {names.REFUSE}", "drop"
PER_TRANSACTION = 500_000  # characters of a first script: some ten thousand elements, a tenth of a second of the kernel's time
CLIENTS = 262144  # that are remembered per path; the kernel takes memory as they come
HASHED = "typeof meta length . meta length . meta length : meta priority"  # three plain numbers: no `type` names those
FIRST_NUMBER = 0x10000  # the number of slot 0; below are priorities that programs set by themselves (socket(7), SO_PRIORITY)


@dataclass(frozen=True, slots=True)
class Layout:
    """The words for one family and one set of flags."""

    family: Family
    settings: Settings = UNSAID

    @property
    def table(self) -> str:
        """Family and name."""
        return f"{self.family.nft} {names.TABLE}"

    @property
    def where(self) -> str:
        """What to call it in a log."""
        return f"table {self.table}"

    def fragments(self, route: Route) -> list[Fragment]:
        """A Service port's part of the table."""
        return [self._fragment(route, way) for way in route.port.ways]

    def _fragment(self, route: Route, way: Way) -> Fragment:
        port, anywhere = route.port, route.anywhere or NOBODY
        local, key = local_of(route), claim_of(port, way)
        match way.kind:
            case Kind.NODE_PORT:
                parts = [self._path(names.NODE_PORT, key, port, anywhere), self._counted(route, way)]
                if local:
                    parts.append(self._path(names.NODE_PORT_LOCAL, key, port, local))
                return _joined(key, parts, names.NO_ENDPOINT_NODE_PORTS)
            case Kind.CLUSTER_IP:
                address = (Element(names.CLUSTER_IPS, way.address),)
                parts = [self._path(names.CLUSTER, key, port, route.cluster), self._counted(route, way)]
                return _joined(key, parts, names.NO_ENDPOINTS, address)
            case _:
                parts = [_Part(guard_elements(key, way)), self._counted(route, way)]
                if local:
                    parts += self._path(names.CLUSTER, key, port, anywhere), self._path(names.EXTERNAL_LOCAL, key, port, local)
                else:
                    parts.append(self._path(names.EXTERNAL, key, port, anywhere))
                return _joined(key, parts, names.NO_ENDPOINTS)

    def _counted(self, route: Route, way: Way) -> _Part:
        return _Part(counting.counted(route, way)) if self.settings.count_traffic else _Part()

    def _path(self, path: Path, key: str, port: ServicePort, choice: Choice) -> _Part:
        if not choice.endpoints:
            if path in (names.EXTERNAL_LOCAL, names.NODE_PORT_LOCAL):
                return _Part((Element(path.verdicts, key, DROP),))
            return _Part((), (), DROP if choice.elsewhere else REFUSE)
        count = len(choice.endpoints)
        hairpin = tuple(Element(names.HAIRPIN, f"{item.address} . {item.address}")
                        for item in choice.endpoints if item.local or item.unplaced)
        if port.affinity:
            stick, sticky = self._stick(path, port.affinity), self._sticky(path, count, port.affinity)
            elements = _sticky_elements(path, key, choice.endpoints, sticky.name, stick.name)
            return _Part(elements, (stick, sticky, *hairpin))
        chain = _spread(path, count)
        slots = (Element(path.endpoints, f"{key} . {_slot(slot)}", _place(item)) for slot, item in enumerate(choice.endpoints))
        return _Part((Element(path.verdicts, key, f"goto {chain.name}"), *slots), (chain, *hairpin))

    def _key(self, path: Path) -> str:
        return f"{self.family.nft} daddr . meta l4proto . th dport" if path.by_address else "meta l4proto . th dport"

    def _client(self, path: Path) -> str:
        """The key of an affinity map. Of IPv6, hashes: nft before 1.0.7 aborts on `update` with a key above 16 bytes.

        Clients that have all three in common share an endpoint, and Services take it from one another: no harm.
        """
        source, service = f"{self.family.nft} saddr", self._key(path)
        if self.family is Family.IPV4:
            return f"{source} . {service}"
        hashed = enumerate((source, source, service), 1)
        return " . ".join(f"jhash {what} mod {0xFFFFFFFF} seed {seed:#x}" for seed, what in hashed)

    def _stick(self, path: Path, timeout: int) -> Chain:
        return Chain(path.stick(timeout), (
            f"update @{path.affinity} {{ {self._client(path)} timeout {timeout}s : meta priority }}",
            f"goto {path.go}",
        ))

    def _sticky(self, path: Path, count: int, timeout: int) -> Chain:
        return Chain(path.sticky(count, timeout), (
            f"meta priority set {self._client(path)} map @{path.affinity}",
            f"{self._key(path)} . meta priority vmap @{path.live}",
            f"delete @{path.affinity} {{ {self._client(path)} : meta priority }}",
            _random(count),
            f"meta priority set {self._key(path)} . meta priority map @{path.slots}",
            f"goto {path.stick(timeout)}",
        ))

    def _mark(self, path: Path) -> tuple[str, ...]:
        """Mark for masquerading what would not be answered back to this node."""
        mark = f"meta mark set meta mark or {self.settings.mark:#x}"
        if path in (names.NODE_PORT, names.EXTERNAL) or (path is names.CLUSTER and self.settings.masquerade_all):
            return (mark,)
        if path is names.CLUSTER and outside(self.family, self.settings):
            return (f"{outside(self.family, self.settings)} {mark}",)
        return ()

    def full_script(self, everything: Delta, kept: Iterable[str] = ()) -> str:
        """Replace the whole table by this, in one transaction; `kept` are commands to run at its end."""
        return "\n".join((
            f"add table {self.table}", f"delete table {self.table}",
            f"table {self.table} {{", *self._containers(), *self._hooks(), *self._chains(), "}",
            *self._words(everything), *kept, "",
        ))

    def first_scripts(self, everything: Delta) -> Iterator[str]:
        """The whole where there is no table yet, in transactions none of which is long.

        The hooks are in the last, so that packets meet all of it or nothing.
        """
        lines, length = [f"table {self.table} {{", *self._containers(), *self._chains(), "}"], 0
        for line in self._words(everything):
            lines.append(line)
            length += len(line)
            if length > PER_TRANSACTION:
                yield "\n".join((*lines, ""))
                lines, length = [], 0
        yield "\n".join((*lines, f"table {self.table} {{", *self._hooks(), "}", ""))

    def delta_script(self, delta: Delta) -> str:
        """Change what has changed, in one transaction."""
        return "\n".join((*self._words(delta), ""))

    def mending_script(self, everything: Delta, there: There) -> str:
        """Make a table that is declared as ours is this one, in one transaction: all rules, and the elements that differ."""
        refilled = [container.name for container in self.containers().values() if container.refilled]
        removed, added = changes(everything.added, there, refilled)
        block = [*(line for line in self._containers() if "elements = {" in line), *self._hooks(), *self._chains()]
        chains = {line.split(" ")[1] for line in block if line.startswith("chain ")}
        gone = there.chains - chains - {chain.name for chain in everything.added_chains}
        return "\n".join((
            *element_words(self.table, "delete", removed),
            *(f"flush chain {self.table} {name}" for name in sorted(there.chains)),
            *(f"flush set {self.table} {name}" for name in refilled),
            f"table {self.table} {{", *block, "}",
            *self._words(Delta(added=tuple(added), added_chains=everything.added_chains)),
            *(f"delete chain {self.table} {name}" for name in sorted(gone)), "",
        ))

    def _words(self, delta: Delta) -> Iterator[str]:
        yield from element_words(self.table, "delete", delta.removed)
        for chain in delta.added_chains:
            yield f"add chain {self.table} {chain.name}"
        for chain in delta.added_chains:
            for rule in chain.rules:
                yield f"add rule {self.table} {chain.name} {rule}"
        yield from element_words(self.table, "add", delta.added)
        for chain in delta.removed_chains:
            yield f"flush chain {self.table} {chain.name}"
        for chain in delta.removed_chains:
            yield f"delete chain {self.table} {chain.name}"

    def containers(self) -> dict[str, Container]:
        """The sets and maps, by name."""
        return declared(self._containers())

    def _containers(self) -> Iterator[str]:
        """Their declarations, and an empty set whose name says what these are: a table with it can be mended."""
        lines = tuple(self._declarations())
        digest = hashlib.sha256("\n".join((*lines, *self._hooks())).encode()).hexdigest()
        yield from lines
        yield f"set {names.DECLARED}{digest[:12]} {{ type mark; }}"

    def _declarations(self) -> Iterator[str]:
        address = "ipv4_addr" if self.family is Family.IPV4 else "ipv6_addr"
        yield f"set {names.PROTOCOLS} {{ type inet_proto; elements = {{ tcp, udp, sctp }}; }}"
        yield f"set {names.CLUSTER_IPS} {{ type {address}; }}"
        yield f"set {names.HAIRPIN} {{ type {address} . {address}; }}"
        yield from node_port_set(self.family, self.settings)
        yield f"map {names.NO_ENDPOINTS} {{ type {address} . inet_proto . inet_service : verdict; }}"
        yield f"map {names.NO_ENDPOINT_NODE_PORTS} {{ type inet_proto . inet_service : verdict; }}"
        yield f"set {names.GUARDED} {{ type {address} . inet_proto . inet_service; }}"
        yield f"set {names.ALLOWED} {{ type {address} . inet_proto . inet_service . {address}; flags interval; }}"
        for verdicts, path in {path.verdicts: path for path in PATHS}.items():
            yield f"map {verdicts} {{ type {self._key_type(path)} : verdict; }}"
        for path in OWN_MAPS:
            key = self._key_type(path)
            yield f"map {path.endpoints} {{ type {key} . classid : {address} . inet_service; }}"
            yield f"map {path.slots} {{ type {key} . classid : classid; }}"
            yield f"map {path.live} {{ type {key} . classid : verdict; }}"
            client = f"type {address} . {key} : classid" if self.family is Family.IPV4 else HASHED
            yield f"map {path.affinity} {{ {client}; size {CLIENTS}; flags dynamic, timeout; }}"

        if self.settings.count_traffic:
            yield from counting.declarations(self.family)

    def _key_type(self, path: Path) -> str:
        address = "ipv4_addr" if self.family is Family.IPV4 else "ipv6_addr"
        return f"{address} . inet_proto . inet_service" if path.by_address else "inet_proto . inet_service"

    def _hooks(self) -> Iterator[str]:
        """The chains the kernel asks."""
        ip = self.family.nft
        rules = f"jump {names.SERVICES}", f"goto {names.UNSERVED}"
        yield from chain_lines(names.NAT_PREROUTING, "type nat hook prerouting priority dstnat; policy accept;", *rules)
        yield from chain_lines(names.NAT_OUTPUT, "type nat hook output priority -100; policy accept;", *rules)
        yield from chain_lines(
            names.NAT_POSTROUTING, "type nat hook postrouting priority srcnat; policy accept;",
            f"meta priority >= {_number(FIRST_NUMBER)} ct status and dnat != 0 meta priority set 0:0",
            f"meta mark and {self.settings.mark:#x} != 0 jump {names.MASQUERADE}",
            f"ct status and dnat != 0 {ip} saddr . {ip} daddr @{names.HAIRPIN} masquerade fully-random",
        )

    def _chains(self) -> Iterator[str]:
        """The other chains that are always there."""
        ip, here = self.family.nft, here_of(self.family, self.settings)
        stranger = f"{outside(self.family, self.settings)} fib saddr type != local".strip()
        for path in PATHS:
            target = f"{self._key(path)} . meta priority map @{path.endpoints}"
            yield from chain_lines(path.go, *self._mark(path), f"meta l4proto @{names.PROTOCOLS} dnat {ip} to {target}")
        yield from chain_lines(
            names.SERVICES, f"{self._key(names.CLUSTER)} @{names.GUARDED} jump {names.GUARD}",
            f"{stranger} {self._key(names.EXTERNAL_LOCAL)} vmap @{names.EXTERNAL_LOCAL.verdicts}",
            f"{self._key(names.CLUSTER)} vmap @{names.CLUSTER.verdicts}", f"{here} jump {names.NODE_PORTS}",
        )
        yield from chain_lines(names.GUARD, f"{self._key(names.CLUSTER)} . {ip} saddr @{names.ALLOWED} return", DROP)
        yield from chain_lines(
            names.NODE_PORTS, f"{stranger} {self._key(names.NODE_PORT_LOCAL)} vmap @{names.NODE_PORT_LOCAL.verdicts}",
            f"{self._key(names.NODE_PORT)} vmap @{names.NODE_PORT.verdicts}",
        )
        yield from chain_lines(
            names.UNSERVED, f"{self._key(names.CLUSTER)} vmap @{names.NO_ENDPOINTS}",
            f"{ip} daddr @{names.CLUSTER_IPS} goto {names.REFUSE}",
            f"{here} meta l4proto . th dport vmap @{names.NO_ENDPOINT_NODE_PORTS}",
        )
        yield from chain_lines(names.REFUSE, "meta l4proto tcp reject with tcp reset", "reject")
        yield from chain_lines(
            names.MASQUERADE, f"meta mark set meta mark xor {self.settings.mark:#x}", "masquerade fully-random",
        )
        if self.settings.count_traffic:
            yield from counting.chains(self.family)


@dataclass(frozen=True, slots=True)
class _Part:
    """One path of one way in: its elements, what it shares, and what to answer if nobody does."""

    elements: tuple[Element, ...] = ()
    shared: tuple[Element | Chain, ...] = ()
    refusal: str = ""


def guard_elements(key: str, way: Way) -> tuple[Element, ...]:
    """Who may come this way, where not everybody may."""
    if way.sources is None:
        return ()
    return (Element(names.GUARDED, key), *(Element(names.ALLOWED, f"{key} . {caller}") for caller in callers_of(way)))


def outside(family: Family, settings: Settings) -> str:
    """The match for a source outside the cluster; nothing where that is not known."""
    if settings.locality.interface:
        return f'iifname != "{settings.locality.interface}"'
    return " ".join(f"{family.nft} saddr != {network}" for network in cluster_networks(settings, family))


def here_of(family: Family, settings: Settings) -> str:
    """The match for an address of this node where NodePorts answer."""
    loopback = "127.0.0.0/8" if family is Family.IPV4 else "::1"
    where = f" {family.nft} daddr @{names.NODE_PORT_ADDRESSES}" if node_port_networks(settings, family) else ""
    return f"fib daddr type local {family.nft} daddr != {loopback}{where}"


def node_port_set(family: Family, settings: Settings) -> Iterator[str]:
    """The set that names those addresses, where not all do."""
    address = "ipv4_addr" if family is Family.IPV4 else "ipv6_addr"
    if networks := node_port_networks(settings, family):
        yield (f"set {names.NODE_PORT_ADDRESSES} {{ type {address}; flags interval; auto-merge; "
               f"elements = {{ {', '.join(map(str, networks))} }}; }}")


def _joined(key: str, parts: list[_Part], refusals: str, shared: tuple[Element, ...] = ()) -> Fragment:
    elements = [element for part in parts for element in part.elements]
    elements += [Element(refusals, key, part.refusal) for part in parts if part.refusal]
    return Fragment(key, tuple(elements), tuple(dict.fromkeys((*shared, *(item for part in parts for item in part.shared)))))


@lru_cache(maxsize=4096)
def _spread(path: Path, count: int) -> Chain:
    return Chain(path.spread(count), (_random(count), f"goto {path.go}"))


def _random(count: int) -> str:
    return f"meta priority set numgen random mod {count} offset {FIRST_NUMBER}"


def _sticky_elements(path: Path, key: str, endpoints: tuple[Endpoint, ...], sticky: str, stick: str) -> tuple[Element, ...]:
    made = [Element(path.verdicts, key, f"goto {sticky}")]
    taken: set[int] = set()
    for slot, item in enumerate(endpoints):
        number = endpoint_number(item, taken)
        taken.add(number)
        made += (
            Element(path.slots, f"{key} . {_slot(slot)}", _number(number)),
            Element(path.live, f"{key} . {_number(number)}", f"goto {stick}"),
            Element(path.endpoints, f"{key} . {_number(number)}", _place(item)),
        )
    return tuple(made)


def endpoint_number(endpoint: Endpoint, taken: set[int]) -> int:
    """A number for an endpoint that is the same after a restart, so that clients stay where they are."""
    number = zlib.crc32(_place(endpoint).encode())
    while number < FIRST_NUMBER or number == 0xFFFFFFFF or number in taken:
        number = (number + FIRST_NUMBER) & 0xFFFFFFFF
    return number


def _slot(index: int) -> str:
    return _number(FIRST_NUMBER + index)


def _number(value: int) -> str:
    """A packet priority as nft writes it: two 16-bit halves in hexadecimal."""
    return f"{value >> 16:x}:{value & 0xFFFF:x}"


def _place(endpoint: Endpoint) -> str:
    return f"{endpoint.address} . {endpoint.port}"
