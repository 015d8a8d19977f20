"""Packets and bytes by Service and endpoint, as the kernel counts them in the elements of sets, or IPVS of its destinations.

Read when somebody asks for the metrics, and not otherwise. A table that is written anew starts at zero; what was counted
before is kept here. Must not know: how packets are counted. Read next: `proxy/render/counting.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from ipaddress import ip_address
from typing import Any, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from nodecore.errors import Fault
from nodecore.kernel.nftdump import table_handle
from nodecore.kernel.setcounters import read_counters
from nodecore.net import Family

from . import names
from .ledger import Fragment
from .render.ipvs import destinations, text_of_destination
from .target import Rules

SETS = {
    names.TRAFFIC_TO: "to", names.NODE_PORT_TRAFFIC_TO: "to", names.TRAFFIC_FROM: "from", names.NODE_PORT_TRAFFIC_FROM: "from",
}
LABELS = ("namespace", "service", "way", "endpoint", "direction")
Key = tuple[Family, str, Any]  # of a set or a direction, what is counted there
Labels = tuple[str, ...]
Held = Sequence[tuple[str, Fragment]]
NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}
Count = tuple[int, int]
KeyT = TypeVar("KeyT", bound=tuple[Family, Any] | tuple[Family, Any, Any])


class Since(Generic[KeyT]):
    """Counts from the start of this process, whatever the kernel has begun anew meanwhile."""

    def __init__(self) -> None:
        self._last: dict[KeyT, Count] = {}
        self._before: dict[KeyT, Count] = {}  # by what is gone
        self._lives: dict[Family, int] = {}

    def add(self, family: Family, now: Mapping[KeyT, Count], life: int = 0) -> dict[KeyT, Count]:
        """What the kernel says now of a family, and what it said before it began anew, with another `life` or with less."""
        another = self._lives.get(family, life) != life
        self._lives[family] = life
        self._before = {key: count for key, count in self._before.items() if key[0] is not family or key in now}
        for key, (packets, _) in now.items():
            last = self._last.get(key)
            if last and (another or packets < last[0]):
                earlier = self._before.get(key, (0, 0))
                self._before[key] = earlier[0] + last[0], earlier[1] + last[1]
        self._last = {key: count for key, count in self._last.items() if key[0] is not family} | dict(now)
        return {key: (count[0] + self._before.get(key, (0, 0))[0], count[1] + self._before.get(key, (0, 0))[1])
                for key, count in now.items()}


class Traffic(Collector):
    """The metrics, from the counters in sets; read in the thread of whoever asks."""

    def __init__(self, rules: Rules, table: str = names.TABLE) -> None:
        self._rules, self._table = rules, table
        self._lock = threading.Lock()
        self._since: Since[Key] = Since()

    def describe(self) -> Iterator[Metric]:
        """Their names, which takes no reading."""
        yield from self._families()

    @staticmethod
    def _families() -> tuple[CounterMetricFamily, CounterMetricFamily]:
        return (
            CounterMetricFamily("kubeproxy_service_packets", "Packets between callers and a Service's endpoints", labels=LABELS),
            CounterMetricFamily("kubeproxy_service_bytes", "Bytes of those packets", labels=LABELS),
        )

    def collect(self) -> Iterator[Metric]:
        """Read the kernel, and say whose each count is."""
        packets, sizes = self._families()
        with self._lock:
            for family, ledger in self._rules.ledgers().items():
                held = ledger.held()
                counted = self._read(family, held)
                for owner, fragment in held:
                    for labels, count in self._summed(family, counted, owner, fragment).items():
                        packets.add_metric(labels, count[0])
                        sizes.add_metric(labels, count[1])
        yield from (packets, sizes)

    def _summed(self, family: Family, counted: Mapping[Key, Count], owner: str, fragment: Fragment) -> dict[Labels, Count]:
        found: dict[Labels, Count] = {}
        for key, labels in self._labelled(owner, fragment):
            if count := counted.get((family, *key)):
                earlier = found.get(labels, (0, 0))
                found[labels] = earlier[0] + count[0], earlier[1] + count[1]
        return found

    def _read(self, family: Family, held: Held) -> dict[Key, Count]:
        """Each count from the start of this process; nothing where the kernel does not tell."""
        try:
            return self._since.add(family, self._now(family, held), self._life(family))
        except Fault:
            return {}

    def _life(self, family: Family) -> int:
        return table_handle(family, self._table)

    def _now(self, family: Family, _: Held) -> dict[Key, Count]:
        return {(family, name, key): count for name in SETS for key, count in read_counters(family, self._table, name).items()}

    def _labelled(self, owner: str, fragment: Fragment) -> Iterator[tuple[tuple[str, Any], Labels]]:
        return labelled(owner, fragment)


class ServerTraffic(Traffic):
    """The same from the counters that IPVS has of each destination; of NodePorts it sees no more than first packets."""

    def _life(self, family: Family) -> int:
        return 0

    def _now(self, family: Family, held: Held) -> dict[Key, Count]:
        from nodecore.kernel.ipvs import Ipvs

        keys = {item.server for _, fragment in held if _has_address(fragment) for item in destinations(fragment.elements)}
        with closing(Ipvs()) as kernel:
            found = kernel.destinations(sorted(keys))
        counts: dict[Key, Count] = {}
        for item in found:
            text = text_of_destination(item)
            counts[family, "to", text], counts[family, "from", text] = item.arrived, item.answered
        return counts

    def _labelled(self, owner: str, fragment: Fragment) -> Iterator[tuple[tuple[str, Any], Labels]]:
        namespace, _, name = owner.partition("/")
        way = fragment.claim.replace(" . ", " ")
        for item in destinations(fragment.elements) if _has_address(fragment) else ():
            for direction in ("to", "from"):
                yield (direction, text_of_destination(item)), (namespace, name, way, item.describe(), direction)


def _has_address(fragment: Fragment) -> bool:
    """Whether a way in is an address and port, and not a NodePort."""
    return fragment.claim.count(" . ") == 2


def packed(key: str) -> bytes:
    """A key as the kernel has it: every part is padded to four bytes."""
    parts = []
    for word in key.split(" . "):
        if word in NUMBERS:
            parts.append(bytes([NUMBERS[word], 0, 0, 0]))
        else:
            parts.append(int(word).to_bytes(2, "big") + b"\0\0" if word.isdigit() else ip_address(word).packed)
    return b"".join(parts)


def labelled(owner: str, fragment: Fragment) -> Iterator[tuple[tuple[str, bytes], Labels]]:
    """The sets and elements in which a Service's traffic is counted, with the labels of each."""
    namespace, _, name = owner.partition("/")
    for item in fragment.elements:
        direction = SETS.get(item.container)
        if direction:
            *way, address, port = item.key.split(" . ")
            host = f"[{address}]" if ":" in address else address
            yield (item.container, packed(item.key)), (namespace, name, " ".join(way), f"{host}:{port}", direction)
