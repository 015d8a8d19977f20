"""The metrics that only iptables mode has, by kube-proxy's names: how many rules there are, and two counts of packets.

Those counts are of rules, and begin anew when these are written anew; what was counted before is kept here. Read when
somebody asks for the metrics. Must not know: how rules come to be. Read next: `proxy/render/iptables.py`.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nodecore.errors import Fault
from nodecore.kernel.iptables import Iptables
from nodecore.net import Family

from .names import PREFIX
from .render.iptables import INVALID, ON_LOOPBACK, TABLES, Layout
from .traffic import Count, Since

COUNTED = {  # metric: the chain, the rule, what it says
    "ct_state_invalid_dropped": (f"{PREFIX}FORWARD", INVALID, "Packets dropped because they belong to no connection"),
    "localhost_nodeports_accepted": (f"{PREFIX}UNSERVED", ON_LOOPBACK, "First packets to NodePorts on loopback"),
}
COUNTERS = re.compile(r" -c (\d+) (\d+)")


class Held(Protocol):
    """Who has written the rules."""

    def rules(self) -> Counter[str]:
        """How many there are of ours, by table."""
        ...

    def written(self) -> Counter[str]:
        """How many the last write of each family wrote."""
        ...


class ChainMetrics(Collector):
    """Read in the thread of whoever asks."""

    def __init__(self, held: Held, layouts: Iterable[object]) -> None:
        self._held, self._layouts = held, [layout for layout in layouts if isinstance(layout, Layout)]
        self._lock = threading.Lock()
        self._since: Since[tuple[Family, str]] = Since()

    def describe(self) -> Iterator[Metric]:
        """Their names, which takes no reading."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Ask the writer, and of what is counted the kernel."""
        for name, text, counts in (("total", "Rules there are", self._held.rules()),
                                   ("last", "Rules the last sync wrote", self._held.written())):
            gauge = GaugeMetricFamily(f"kubeproxy_sync_proxy_rules_iptables_{name}", text, labels=("table",))
            for table in TABLES:
                gauge.add_metric((table,), counts[table])
            yield gauge
        with self._lock:
            packets = asyncio.run(self._packets())
        for name, (_, _, text) in COUNTED.items():
            yield CounterMetricFamily(f"kubeproxy_iptables_{name}_packets", text, value=packets[name])

    async def _packets(self) -> Counter[str]:
        """By metric, from the start of this process; none where the flags ask for no such rule."""
        kernel, found = Iptables(), Counter[str]()
        for layout in self._layouts:
            rules = set(layout.fixed("filter"))
            wanted = [name for name, (chain, rule, _) in COUNTED.items() if f"-A {chain} {rule}" in rules]
            for key, (packets, _) in self._since.add(layout.family, await self._read(kernel, layout.family, wanted)).items():
                found[key[1]] += packets
        return found

    @staticmethod
    async def _read(kernel: Iptables, family: Family, wanted: Sequence[str]) -> dict[tuple[Family, str], Count]:
        found: dict[tuple[Family, str], Count] = {}
        for name in wanted:
            chain, rule, _ = COUNTED[name]
            try:
                listed = await kernel.list_chain(await kernel.chosen(), family, "filter", chain, counters=True) or ()
            except Fault:
                continue  # what cannot be read now is told the next time
            for line in listed:
                counters = COUNTERS.search(line)
                if counters and COUNTERS.sub("", line) == f"-A {chain} {rule}":
                    found[family, name] = int(counters[1]), int(counters[2])
        return found
