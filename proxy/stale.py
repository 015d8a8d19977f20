"""Which flows lead nowhere: those remembered towards an endpoint that no longer answers for where they were sent.

UDP and SCTP flows go when their endpoint serves no more; one that is on its way out but serves keeps those it has, as it
keeps its TCP connections. TCP is looked at where the flags ask for it, and goes only when the endpoint is gone altogether.
A flow that still leads to a good endpoint is left alone, so that a restart cuts nothing.

Pure. Read next: `proxy/agent.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from nodecore.kernel.conntrack import Flow

from .endpoints import Endpoint
from .snapshot import Route

Place = tuple[str, int]
Target = tuple[str, str, int]  # protocol, address and port callers send to; NodePorts have an empty address
Targets = dict[Target, frozenset[Place]]  # ... and who may answer
NOBODY: frozenset[Place] = frozenset()
TCP = "tcp"


def targets_of(routes: Iterable[Route], *, tcp: bool = False) -> Targets:
    """Who may answer for each port of a Service, by protocols that are looked at."""
    found: Targets = {}
    for route in routes:
        port = route.port
        if port.protocol == TCP and not tcp:
            continue
        able = frozenset((item.address, item.port) for item in route.known
                         if port.protocol == TCP or port.unready_too or _serves(item))
        for way in port.ways:
            found[(port.protocol, way.address, way.port)] = able
    return found


def _serves(item: Endpoint) -> bool:
    return item.ready or item.serving


def is_stale(targets: Mapping[Target, frozenset[Place]], protocol: str) -> Callable[[Flow], bool]:
    """The question to ask of each flow of a protocol.

    A flow to a Service's address that was never translated is stale too: it was first sent before there were rules.
    Such a flow to a NodePort may be anybody's, and is left alone; and of TCP any, which ends by itself.
    """

    def stale(flow: Flow) -> bool:
        answering = (flow.endpoint, flow.endpoint_port)
        untranslated = flow.endpoint == flow.destination
        if untranslated and protocol == TCP:
            return False
        allowed = targets.get((protocol, flow.destination, flow.port))
        if allowed is None and not untranslated:
            allowed = targets.get((protocol, "", flow.port))
        return allowed is not None and answering not in allowed

    return stale


def changed(old: Targets, new: Targets) -> Targets:
    """The targets to look at after a change: new answers, and nobody for what is gone."""
    gone = {key: NOBODY for key in old if key not in new}
    return gone | {key: who for key, who in new.items() if old.get(key) != who}
