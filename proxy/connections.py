"""Connections by Service, as iptables counts them: only the first packet of a connection meets the table nat.

Packets and bytes of whole connections are counted beside them: `proxy/render/counting.py`.
Read when somebody asks for the metrics. Must not know: how rules come to be. Read next: `proxy/traffic.py`.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from nodecore.errors import Fault
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.ports import Variant
from nodecore.net import Family

from .ledger import Fragment
from .names import PREFIX
from .target import Rules
from .traffic import Count, Since

LABELS = ("namespace", "service", "way", "endpoint")
COUNTED = re.compile(rf"^\[(\d+):(\d+)\] -A ({PREFIX}\S+) (.*)$", re.MULTILINE)
ALONE = re.compile(r"/(?:32|128)(?= )")  # iptables says the length of a single address too
TO = " -j DNAT --to-destination "
TAKES = (TO, f" -j {PREFIX}V-")
Key = tuple[Family, str, str]  # of a rule: its chain, and itself


class Connections(Collector):
    """The metric; read in the thread of whoever asks."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._variant: Variant | None = None
        self._lock = threading.Lock()
        self._since: Since[Key] = Since()

    def describe(self) -> Iterator[Metric]:
        """Its name, which takes no reading."""
        yield self._metric()

    @staticmethod
    def _metric() -> CounterMetricFamily:
        return CounterMetricFamily("kubeproxy_service_connections", "Connections to a Service", labels=LABELS)

    def collect(self) -> Iterator[Metric]:
        """Read the kernel, and say whose each count is."""
        made = self._metric()
        with self._lock:
            for family, ledger in self._rules.ledgers().items():
                counted = self._read(family)
                for owner, fragment in ledger.held():
                    for (chain, rule), labels in labelled(owner, fragment):
                        if found := counted.get((family, chain, rule)):
                            made.add_metric(labels, found[0])
        yield made

    def _read(self, family: Family) -> dict[Key, Count]:
        """Each rule's count from the start of this process; nothing where the kernel does not tell."""
        try:
            saved = asyncio.run(self._saved(family))
        except Fault:
            return {}
        return self._since.add(family, {(family, chain, rule): count for (chain, rule), count in read_counts(saved).items()})

    async def _saved(self, family: Family) -> str:
        chains = Iptables()
        self._variant = self._variant or await chains.chosen()
        return await chains.save(self._variant, family, "nat", counters=True)


def read_counts(saved: str) -> dict[tuple[str, str], Count]:
    """Packets and bytes by chain and rule, worded as ours, of those that take a connection somewhere."""
    return {(chain, ALONE.sub("", rule)): (int(packets), int(size)) for packets, size, chain, rule in COUNTED.findall(saved)
            if any(words in rule for words in TAKES)}


def labelled(owner: str, fragment: Fragment) -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    """The rules in which a Service's connections are counted, with the labels of each; the endpoint where a rule is for one."""
    namespace, _, name = owner.partition("/")
    way = " ".join(fragment.claim.split(" . "))
    for item in fragment.elements:
        table, _, chain = item.container.partition(" ")
        for rule in item.value.split("\n") if table == "nat" else ():
            if any(words in rule for words in TAKES):
                yield (chain, ALONE.sub("", rule)), (namespace, name, way, rule.partition(TO)[2])
