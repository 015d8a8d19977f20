"""Who talks to whom: every node's connections as one table, each connection once, by the names of pods and Services.

A connection to a Service is seen by the client's node with the Service's address and by the endpoint's without: they are joined
by who answers whom, which is the same on both. Pure. Must not know: conntrack. Read next: `netscope/records.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from netscope.directory import Directory, Place
from netscope.records import Connection, Flows
from nodecore.errors import UserError

PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
TUNNEL_PORTS = (8472, 4789)
RESET, OPENING = "CLOSE", ("SYN_SENT", "SYN_SENT2")
VERDICTS = ("answered", "unanswered", "reset", "ended")
Key = tuple[int, str, int, str, int]


class Row(msgspec.Struct, frozen=True):
    """One connection. `target` is what was asked for, `endpoint` who answers; counters are sums of both directions."""

    source: str
    source_port: int
    target: str
    target_port: int
    endpoint: str
    protocol: str
    verdict: str
    state: str
    nodes: tuple[str, ...]
    packets: int | None = None
    octets: int | None = None
    per_second: float | None = None
    retransmissions: int | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows are wanted; empty parts want all. Places are compared by their addresses."""

    source: Place | None = None
    target: Place | None = None
    protocol: str = ""
    verdict: str = ""
    tunnels: bool = False

    def wants(self, connection: Connection, verdict: str) -> bool:
        """Whether a connection is among them."""
        client, _, asked, port = connection.asked
        if client == "::1" or client.startswith("127."):
            return False
        if not self.tunnels and connection.protocol == 17 and port in TUNNEL_PORTS:
            return False
        if self.source and client not in self.source.addresses:
            return False
        if self.target and not {asked, connection.answered[0]} & set(self.target.addresses):
            return False
        return self.protocol in ("", PROTOCOLS.get(connection.protocol)) and self.verdict in ("", verdict)


def names_of(directory: Directory) -> dict[str, str]:
    """Everybody's name by address; of several with one address the first's."""
    return {address: str(place) for place in reversed(directory.places) for address in place.addresses}


def key_of(connection: Connection) -> Key:
    """Who answers whom."""
    server, server_port, client, client_port = connection.answered
    return connection.protocol, server, server_port, client, client_port


def verdict_of(connection: Connection, *, ended: bool) -> str:
    """How it stands."""
    if connection.state == RESET:
        return "reset"
    if not connection.replied or connection.state in OPENING:
        return "unanswered"
    return "ended" if ended else "answered"


@dataclass(slots=True)
class Ledger:
    """Joins what nodes tell, look after look, and knows what was before; `lost`: how often news was lost, by node."""

    directory: Directory
    lost: dict[str, int]
    _names: dict[str, str]
    _before: dict[Key, tuple[int, float]]
    _sent: dict[str, int]

    @classmethod
    def new(cls, directory: Directory) -> Ledger:
        """With nothing seen yet."""
        return cls(directory, {}, names_of(directory), {}, {})

    def rows(self, told: Mapping[str, Flows], wanted: Filter, at: float) -> list[Row]:
        """The table at one moment; with rates from the second look on."""
        seen: dict[Key, list[tuple[str, Connection, bool]]] = {}
        for node, flows in told.items():
            self.lost[node] = self.lost.get(node, 0) + flows.lost
            known = set()
            for each, ended in (*((each, False) for each in flows.now), *((each, True) for each in flows.ended)):
                if (each.identity, key_of(each)) not in known:
                    known.add((each.identity, key_of(each)))
                    seen.setdefault(key_of(each), []).append((node, each, ended))
        again = self._again(told)
        rows = [self._row(key, sights, again, at) for key, sights in seen.items()
                if wanted.wants(_fullest(sights), verdict_of(_fullest(sights), ended=all(ended for _, _, ended in sights)))]
        self._before = {key: (_packets(sights) or 0, at) for key, sights in seen.items()}
        return sorted(rows, key=lambda row: (row.source, row.target, row.target_port, row.source_port))

    def _again(self, told: Mapping[str, Flows]) -> dict[str, int]:
        """Segments sent again since the last look, by the address of who sent them."""
        found: dict[str, int] = {}
        for flows in told.values():
            for sent in flows.sent:
                for address in sent.addresses:
                    if address in self._sent:
                        found[address] = max(0, sent.again - self._sent[address])
                    self._sent[address] = sent.again
        return found

    def _row(self, key: Key, sights: Sequence[tuple[str, Connection, bool]], again: Mapping[str, int], at: float) -> Row:
        best = _fullest(sights)
        client, client_port, asked, port = best.asked
        packets, before = _packets(sights), self._before.get(key)
        rate = (packets - before[0]) / (at - before[1]) if packets is not None and before and at > before[1] else None
        octets = [sum(each.octets) for _, each, _ in sights if each.octets]
        return Row(
            self._name(client), client_port, self._name(asked), port, self._name(best.answered[0]),
            PROTOCOLS.get(best.protocol, str(best.protocol)), verdict_of(best, ended=all(ended for _, _, ended in sights)),
            best.state, tuple(sorted({node for node, _, _ in sights})), packets, max(octets) if octets else None, rate,
            again.get(client) if best.protocol == 6 else None)

    def learn(self, directory: Directory) -> None:
        """Who is there now."""
        self.directory, self._names = directory, names_of(directory)

    def _name(self, address: str) -> str:
        return self._names.get(address, address)


def _fullest(sights: Iterable[tuple[str, Connection, bool]]) -> Connection:
    """The sight that knows what was asked for: the one that was translated."""
    return max((each for _, each, _ in sights), key=lambda each: (each.asked[2:] != each.answered[:2], each.replied))


def _packets(sights: Iterable[tuple[str, Connection, bool]]) -> int | None:
    counts = [sum(each.packets) for _, each, _ in sights if each.packets]
    return max(counts) if counts else None


def place_of(directory: Directory, name: str, what: str) -> Place | None:
    """Whom a filter means."""
    if not name:
        return None
    try:
        return directory.find(name)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


HEAD = ("SOURCE", "TARGET", "ENDPOINT", "PROTO", "VERDICT", "STATE", "PACKETS", "PER SECOND", "SENT AGAIN")


def busiest(rows: Iterable[Row]) -> list[Row]:
    """What has the most packets now comes first."""
    return sorted(rows, key=lambda row: (-(row.per_second or 0), -(row.packets or 0)))


def draw(rows: Sequence[Row]) -> str:
    """As a table."""
    lines = [HEAD, *((_end(row.source, row.source_port), _end(row.target, row.target_port),
                      row.endpoint if row.endpoint != row.target else "", row.protocol, row.verdict, row.state,
                      _text(row.packets), "-" if row.per_second is None else f"{row.per_second:.1f}", _text(row.retransmissions))
                     for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _end(who: str, port: int) -> str:
    return f"{who}:{port}" if port else who


def _text(number: int | None) -> str:
    return "-" if number is None else str(number)
