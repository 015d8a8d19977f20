"""Packets and bytes by Service and endpoint, as the kernel counts them in the elements of sets.

Read when somebody asks for the metrics, and not otherwise. A table that is written anew starts at zero; what was counted
before is kept here. Must not know: how packets are counted. Read next: `proxy/render/nftables.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from nodecore.errors import Fault
from nodecore.kernel.setcounters import read_counters
from nodecore.net import Family

from . import names
from .ledger import Fragment
from .target import Rules

SETS = {
    names.TRAFFIC_TO: "to", names.NODE_PORT_TRAFFIC_TO: "to", names.TRAFFIC_FROM: "from", names.NODE_PORT_TRAFFIC_FROM: "from",
}
LABELS = ("namespace", "service", "way", "endpoint", "direction")
Key = tuple[Family, str, bytes]
NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}
Count = tuple[int, int]
KeyT = TypeVar("KeyT", bound=tuple[Family, Any] | tuple[Family, Any, Any])


class Since(Generic[KeyT]):
    """Counts from the start of this process, whatever the kernel has begun anew meanwhile."""

    def __init__(self) -> None:
        self._last: dict[KeyT, Count] = {}
        self._before: dict[KeyT, Count] = {}  # by what is gone

    def add(self, family: Family, now: Mapping[KeyT, Count]) -> dict[KeyT, Count]:
        """What the kernel says now of a family, and what it said before it began anew."""
        self._before = {key: count for key, count in self._before.items() if key[0] is not family or key in now}
        for key, (packets, _) in now.items():
            last = self._last.get(key)
            if last and packets < last[0]:
                earlier = self._before.get(key, (0, 0))
                self._before[key] = earlier[0] + last[0], earlier[1] + last[1]
        self._last = {key: count for key, count in self._last.items() if key[0] is not family} | dict(now)
        return {key: (count[0] + self._before.get(key, (0, 0))[0], count[1] + self._before.get(key, (0, 0))[1])
                for key, count in now.items()}


class Traffic(Collector):
    """The metrics; read in the thread of whoever asks."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
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
                counted = self._read(family)
                for owner, fragment in ledger.held():
                    for key, labels in labelled(owner, fragment):
                        found = counted.get((family, *key))
                        if found:
                            packets.add_metric(labels, found[0])
                            sizes.add_metric(labels, found[1])
        yield from (packets, sizes)

    def _read(self, family: Family) -> dict[Key, Count]:
        """Each element's count from the start of this process; nothing where the kernel does not tell."""
        try:
            now = {(family, name, key): count for name in SETS for key, count in read_counters(family, names.TABLE, name).items()}
        except Fault:
            return {}
        return self._since.add(family, now)


def packed(key: str) -> bytes:
    """A key as the kernel has it: every part is padded to four bytes."""
    parts = []
    for word in key.split(" . "):
        if word in NUMBERS:
            parts.append(bytes([NUMBERS[word], 0, 0, 0]))
        else:
            parts.append(int(word).to_bytes(2, "big") + b"\0\0" if word.isdigit() else ip_address(word).packed)
    return b"".join(parts)


def labelled(owner: str, fragment: Fragment) -> Iterator[tuple[tuple[str, bytes], tuple[str, ...]]]:
    """The sets and elements in which a Service's traffic is counted, with the labels of each."""
    namespace, _, name = owner.partition("/")
    for item in fragment.elements:
        direction = SETS.get(item.container)
        if direction:
            *way, address, port = item.key.split(" . ")
            host = f"[{address}]" if ":" in address else address
            yield (item.container, packed(item.key)), (namespace, name, " ".join(way), f"{host}:{port}", direction)
