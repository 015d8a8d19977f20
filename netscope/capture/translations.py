"""The flows of this node whose addresses were translated, as its connection tracking knows them.

Read next: `nodecore/kernel/conntrack.py`; `joining.py`, which names them in a capture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from netscope.capture.spool import Translated
from netscope.flow import NAMES, PORTED
from nodecore.errors import Fault
from nodecore.kernel.conntrack import Conntrack
from nodecore.kernel.conntrack import Flow as Tracked
from nodecore.net import Family


def translations(hosts: Sequence[str]) -> list[Translated]:
    """Those of these addresses; without any, all. None where nothing is tracked."""
    wanted = set(hosts)
    try:
        found = asyncio.run(_all())
    except Fault:
        return []
    return [_translated(number, flow) for number, flow in found
            if (flow.destination, flow.port, flow.source, flow.source_port)
            != (flow.endpoint, flow.endpoint_port, flow.seen_source, flow.seen_source_port)
            and (not wanted or wanted & {flow.source, flow.destination, flow.endpoint})]


async def _all() -> list[tuple[int, Tracked]]:
    conntrack = Conntrack()
    return [(number, flow) for family in Family for number in PORTED
            for flow in await conntrack.list_flows(family, NAMES[number])]


def _translated(number: int, flow: Tracked) -> Translated:
    return Translated(number, flow.source, flow.source_port, flow.destination, flow.port,
                      flow.seen_source, flow.seen_source_port, flow.endpoint, flow.endpoint_port)
