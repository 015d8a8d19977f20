"""The entries of this node's connection tracking that packets belong to.

Must not know: other nodes. Read next: `nodecore/kernel/flowtable.py`; `netscope/hops.py`, which puts them where they were used.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from netscope.headers import Headers
from netscope.records import Connection
from nodecore.kernel.flowtable import Tracked, Tuple, look_up

MOST = 200  # that are asked for at once


def entries_of(met: Collection[Headers]) -> tuple[Connection, ...]:
    """Each once; a translated packet is asked for by its answer."""
    found: dict[int, Connection] = {}
    for headers in islice(met, MOST):
        if any(each.is_of(headers.ends) for each in found.values()):
            continue
        source, port, target, to_port = headers.ends
        flow = look_up(headers.protocol, Tuple(*headers.ends)) or look_up(
            headers.protocol, Tuple(target, to_port, source, port))
        if flow:
            found[flow.identity] = connection_of(flow)
    return tuple(found.values())


def connection_of(flow: Tracked) -> Connection:
    """As a record."""
    asked, answered = ((each.source, each.source_port, each.target, each.target_port) for each in (flow.asked, flow.answered))
    return Connection(flow.identity, flow.protocol, asked, answered, flow.state, flow.replied, flow.packets, flow.octets)
