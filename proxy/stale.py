"""Which UDP flows lead nowhere: those remembered towards an endpoint that no longer answers for where they were sent.

Pure. A flow that still goes to a good endpoint is left alone, so that a restart cuts nothing. Read next: `proxy/agent.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from nodecore.kernel.conntrack import Flow

from .services import Kind
from .snapshot import Route

Address = tuple[str, int]
Targets = dict[Address, frozenset[Address]]  # where callers send -> who may answer; NodePorts have an empty address
NOBODY: frozenset[Address] = frozenset()


def udp_targets(routes: Iterable[Route]) -> Targets:
    """Who may answer for each UDP port of a Service."""
    found: Targets = {}
    for route in routes:
        port = route.port
        if port.protocol != "udp":
            continue
        for way in port.ways:
            choices = (route.cluster,) if way.kind is Kind.CLUSTER_IP else (route.anywhere, route.local)
            found[(way.address, way.port)] = frozenset(
                (item.address, item.port) for choice in choices if choice for item in choice.endpoints)
    return found


def is_stale(targets: Mapping[Address, frozenset[Address]]) -> Callable[[Flow], bool]:
    """The question to ask of each flow.

    A flow to a Service's address that was never translated is stale too: it was first sent before there were rules.
    Such a flow to a NodePort may be anybody's, and is left alone.
    """

    def stale(flow: Flow) -> bool:
        answering = (flow.endpoint, flow.endpoint_port)
        allowed = targets.get((flow.destination, flow.port))
        if allowed is None and flow.endpoint != flow.destination:
            allowed = targets.get(("", flow.port))
        return allowed is not None and answering not in allowed

    return stale


def changed(old: Targets, new: Targets) -> Targets:
    """The targets to look at after a change: new answers, and nobody for what is gone."""
    gone = {key: NOBODY for key in old if key not in new}
    return gone | {key: who for key, who in new.items() if old.get(key) != who}
