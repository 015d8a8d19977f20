"""Who answers for a Service: its EndpointSlices, joined and checked, as `Endpoint` values by port.

Pure. Must not know: which of them is chosen (`policy.py`). Read next: `proxy/policy.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nodecore.kube.objects import Endpoint as EndpointView
from nodecore.kube.objects import EndpointPort, EndpointSlice
from nodecore.net import Family, read_address

from .services import LEFT_ALONE, ORDINARY, PROTOCOLS, Skipped, cannot_be_had

SERVICE_NAME = "kubernetes.io/service-name"


class Endpoint(msgspec.Struct, frozen=True, order=True, gc=False):
    """One address and port that answers; `local` if it is on this node, `unplaced` if nobody says where it is.

    `zones` and `nodes` are the hints: whose callers it is meant for.
    """

    address: str
    port: int
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    local: bool = False
    unplaced: bool = False
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


PortKey = tuple[str, str]  # port name, protocol in lower case
Endpoints = dict[PortKey, list[Endpoint]]


def service_of(item: EndpointSlice) -> str:
    """The key of the Service a slice belongs to, or nothing where there is none or the slice is for another proxy."""
    labels = item.metadata.labels or {}
    name = labels.get(SERVICE_NAME, "") if LEFT_ALONE.isdisjoint(labels) else ""
    return f"{item.metadata.namespace}/{name}" if name else ""


def read_endpoints(slices: Iterable[tuple[str, EndpointSlice]], family: Family, node: str) -> tuple[Endpoints, list[Skipped]]:
    """All endpoints of one family by port, each once and sorted; an endpoint in two slices is as good as the better one."""
    found: dict[PortKey, dict[tuple[str, int], Endpoint]] = {}
    skipped: list[Skipped] = []
    for key, item in slices:
        if item.address_type != f"IPv{family.value}":
            continue
        addresses = [(address, view) for view in item.endpoints or [] if (address := _address(key, view, family, skipped))]
        for port in item.ports or []:
            number, protocol = port.port, port.protocol or "TCP"
            reason = _unusable(port)
            if number is None or reason:
                skipped.append(Skipped("EndpointSlice", key, reason or "a port without a number"))
                continue
            group = found.setdefault((port.name or "", protocol.lower()), {})
            for address, view in addresses:
                _keep(group, _endpoint(address, number, view, node))
    return {key: sorted(group.values()) for key, group in found.items()}, skipped


def _unusable(port: EndpointPort) -> str:
    if port.protocol and port.protocol not in PROTOCOLS:
        return f"protocol {port.protocol!r:.32} is none of {', '.join(PROTOCOLS)}"
    if port.port is not None and not 1 <= port.port <= 65535:
        return f"port {port.port} is not between 1 and 65535"
    return ""


def _address(key: str, view: EndpointView, family: Family, skipped: list[Skipped]) -> str:
    """The first address (the only one that counts, by the API's definition), or nothing if it cannot be reached."""
    if not view.addresses:
        return ""
    text = view.addresses[0]
    if family is Family.IPV4 and ORDINARY.fullmatch(text):
        return text
    try:
        address = read_address(text)
    except ValueError:
        skipped.append(Skipped("EndpointSlice", key, f"{text!r:.64} is not an address"))
        return ""
    if Family.of(address) is not family:
        skipped.append(Skipped("EndpointSlice", key, f"{address} is not IPv{family.value}"))
    elif cannot_be_had(address):
        skipped.append(Skipped("EndpointSlice", key, f"{address} cannot be an endpoint"))
    else:
        return str(address)
    return ""


def _endpoint(address: str, port: int, view: EndpointView, node: str) -> Endpoint:
    state = view.conditions
    ready = state.ready is not False
    return Endpoint(
        address, port, ready=ready, serving=ready if state.serving is None else state.serving,
        terminating=bool(state.terminating), local=bool(node) and view.node_name == node,
        unplaced=not view.node_name,
        zones=tuple(hint.name for hint in (view.hints.for_zones if view.hints else None) or ()),
        nodes=tuple(hint.name for hint in (view.hints.for_nodes if view.hints else None) or ()),
    )


def _keep(group: dict[tuple[str, int], Endpoint], new: Endpoint) -> None:
    known = group.get((new.address, new.port))
    if known is None or (new.ready, new.serving, new.local) > (known.ready, known.serving, known.local):
        group[(new.address, new.port)] = new
