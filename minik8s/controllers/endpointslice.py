"""EndpointSlices and Endpoints of every Service that selects pods, changed as little as possible.

An endpoint stays in the slice it is in; only slices whose content differs are written. Must not know: who reads them.
Read next: `minik8s/controllers/endpoints.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nodecore.kube.labels import contains
from nodecore.kube.objects import View
from nodecore.kube.resource import ENDPOINT_SLICES, ENDPOINTS
from nodecore.kube.workload import Meta, Node, Pod, stamp

from .endpoints import TRIGGERED, Address, Port, Publisher, SelectingService, addresses, owner
from .ops import Create, Delete, Op, Patch, Plan, Raw
from .pods import digest
from .world import Collection

MANAGER = "endpointslice-controller.k8s.io"
SERVICE_NAME, MANAGED_BY = "kubernetes.io/service-name", "endpointslice.kubernetes.io/managed-by"
HEADLESS = "service.kubernetes.io/headless"
FULL = 100
ENDPOINTS_LIMIT = 1000


class Slice(View, frozen=True):
    """discovery/v1 EndpointSlice, its endpoints as they were written."""

    metadata: Meta = Meta()
    address_type: str = "IPv4"
    endpoints: list[Raw] | None = None
    ports: list[Raw] | None = None


class Legacy(View, frozen=True):
    """core/v1 Endpoints."""

    metadata: Meta = Meta()
    subsets: list[Raw] | None = None


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(each) for key, each in value.items() if each not in (None, "", {}, [])}
    return [_bare(each) for each in value] if isinstance(value, list) else value


def labels_of(service: SelectingService) -> dict[str, str]:
    """The labels of its slices: its own, and those by which readers find them."""
    headless = {HEADLESS: ""} if service.spec.cluster_ip == "None" else {}
    return {**(service.metadata.labels or {}), **headless, SERVICE_NAME: service.metadata.name, MANAGED_BY: MANAGER}


def plan_slices(service: SelectingService, wanted: Sequence[Address], slices: Iterable[Slice], now: float) -> Plan:
    """The writes from a Service's present slices to the wanted endpoints."""
    groups: dict[tuple[str, tuple[Port, ...]], list[Address]] = {}
    for address in wanted:
        groups.setdefault((address.family, address.ports), []).append(address)
    families = service.spec.ip_families or ["IPv4"]
    for family in families:
        if not any(key[0] == family for key in groups):
            groups[(family, ())] = []
    free = sorted((each for each in slices if not each.metadata.deletion_timestamp), key=lambda each: each.metadata.name)
    ops: list[Op] = []
    for (family, ports), group in sorted(groups.items()):
        raw_ports = [port.raw() for port in ports]
        mine = [each for each in free if each.address_type == family and _bare(each.ports or []) == _bare(raw_ports)]
        if not mine and not group:
            mine = [each for each in free if each.address_type == family][:1]
        free = [each for each in free if each not in mine]
        ops += _fill(service, family, raw_ports, group, mine, now)
    return Plan((*ops, *(Delete(ENDPOINT_SLICES, each.metadata, "no endpoints left for it") for each in free)))


def _key(raw: Raw) -> str:
    return str((raw.get("addresses") or [""])[0])


def _fill(service: SelectingService, family: str, ports: list[Raw], group: list[Address], slices: list[Slice],
          now: float) -> list[Op]:
    """Keep each endpoint in its slice, put new ones where there is room, make slices for the rest, drop empty ones."""
    wanted = {address.ip: address.raw() for address in group}
    content: list[list[Raw]] = []
    for each in slices:
        held = list(dict.fromkeys(_key(raw) for raw in each.endpoints or []))
        content.append([wanted.pop(ip) for ip in held if ip in wanted])
    rest = list(wanted.values())
    for kept in sorted(content, key=len, reverse=True):
        take = max(0, FULL - len(kept)) if rest else 0
        kept += rest[:take]
        rest = rest[take:]
    ops: list[Op] = []
    keep_one = not rest and not any(content)
    for each, kept in zip(slices, content, strict=True):
        if kept or keep_one:
            ops += _change(service, each, kept, ports, now)
            keep_one = keep_one and bool(kept)
        else:
            ops.append(Delete(ENDPOINT_SLICES, each.metadata, "empty"))
    serial = 0
    while rest or (not slices and serial == 0):
        ops.append(_make(service, family, rest[:FULL], ports, now, serial))
        rest = rest[FULL:]
        serial += 1
    return ops


def _change(service: SelectingService, old: Slice, endpoints: list[Raw], ports: list[Raw], now: float) -> list[Op]:
    labels = labels_of(service)
    have = old.metadata.labels or {}
    relabel: dict[str, str | None] = {key: value for key, value in labels.items() if have.get(key) != value}
    relabel.update({key: None for key in have if key not in labels})
    same = _bare(old.endpoints or []) == _bare(endpoints) and _bare(old.ports or []) == _bare(ports)
    if same and not relabel:
        return []
    meta: Raw = {"annotations": {TRIGGERED: stamp(now)}, **({"labels": relabel} if relabel else {})}
    return [Patch(ENDPOINT_SLICES, old.metadata, {"metadata": meta, "endpoints": endpoints, "ports": ports},
                  f"{len(endpoints)} endpoints", version=old.metadata.resource_version)]


def _make(service: SelectingService, family: str, endpoints: list[Raw], ports: list[Raw], now: float, serial: int) -> Create:
    meta = service.metadata
    name = f"{meta.name}-{digest([meta.uid, family, ports, now, serial], length=5)}"
    return Create(ENDPOINT_SLICES, {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": meta.namespace, "generateName": f"{meta.name}-", "labels": labels_of(service),
                     "annotations": {TRIGGERED: stamp(now)}, "ownerReferences": [owner(service)]},
        "addressType": family, "endpoints": endpoints, "ports": ports,
    })


def subsets(wanted: Sequence[Address]) -> list[Raw]:
    """The same endpoints as core/v1 Endpoints tells them: grouped by ports, terminating ones left out."""
    groups: dict[tuple[Port, ...], list[Address]] = {}
    for address in [each for each in wanted if not each.terminating or each.ready][:ENDPOINTS_LIMIT]:
        groups.setdefault(address.ports, []).append(address)
    found = []
    for ports, group in sorted(groups.items()):
        subset: Raw = {}
        for part, ready in (("addresses", True), ("notReadyAddresses", False)):
            members = [_legacy(each) for each in group if each.ready is ready]
            if members:
                subset[part] = members
        found.append({**subset, "ports": [port.raw() for port in ports]})
    return found


def _legacy(address: Address) -> Raw:
    found: Raw = {"ip": address.ip, "targetRef": address.target()}
    return {**found, **({"nodeName": address.node} if address.node else {}),
            **({"hostname": address.hostname} if address.hostname else {})}


def plan_legacy(service: SelectingService, wanted: Sequence[Address], old: Legacy | None, now: float) -> Plan:
    """The write, if any, that makes the Endpoints object right."""
    meta = service.metadata
    families = service.spec.ip_families or ["IPv4"]
    fresh = subsets([address for address in wanted if address.family == families[0]])
    if old is None:
        body = {"apiVersion": "v1", "kind": "Endpoints", "subsets": fresh, "metadata": {
            "name": meta.name, "namespace": meta.namespace, "labels": dict(meta.labels or {}),
            "annotations": {TRIGGERED: stamp(now)}}}
        return Plan((Create(ENDPOINTS, body),))
    if _bare(old.subsets or []) == _bare(fresh):
        return Plan()
    change: Raw = {"subsets": fresh or None, "metadata": {"annotations": {TRIGGERED: stamp(now)}}}
    return Plan((Patch(ENDPOINTS, old.metadata, change, f"{len(wanted)} addresses", version=old.metadata.resource_version),))


class EndpointSlices(Publisher):
    """The controller around `plan_slices`."""

    name = "endpointslice"

    def __init__(self, services: Collection[SelectingService], pods: Collection[Pod], nodes: Collection[Node],
                 slices: Collection[Slice]) -> None:
        super().__init__(services, pods, nodes)
        self.slices = slices

    def listen(self, mark: Callable[[str], None]) -> None:
        """Also marked when somebody else touches a slice."""
        super().listen(mark)

        def of_slice(old: Slice | None, new: Slice | None) -> None:
            for each in (old, new):
                labels = (each.metadata.labels or {}) if each else {}
                if each is not None and labels.get(MANAGED_BY) == MANAGER and SERVICE_NAME in labels:
                    mark(f"{each.metadata.namespace}/{labels[SERVICE_NAME]}")

        self.slices.listeners.append(of_slice)

    def plan(self, key: str, now: float) -> Plan:
        """The writes for one Service; slices of one that is gone are deleted."""
        namespace, _, name = key.partition("/")
        ours = {SERVICE_NAME: name, MANAGED_BY: MANAGER}
        mine = [each for each in self.slices.within(namespace) if contains(each.metadata.labels, ours)]
        service = self.services.get(key)
        if service is None:
            return Plan(tuple(Delete(ENDPOINT_SLICES, each.metadata, "its Service is gone") for each in mine
                              if not each.metadata.deletion_timestamp))
        if service.metadata.deletion_timestamp or not service.spec.selector or service.spec.type == "ExternalName":
            return Plan()
        return plan_slices(service, addresses(service, self.pods.within(namespace), self.zones()), mine, now)


class LegacyEndpoints(Publisher):
    """The controller around `plan_legacy`."""

    name = "endpoints"

    def __init__(self, services: Collection[SelectingService], pods: Collection[Pod], nodes: Collection[Node],
                 endpoints: Collection[Legacy]) -> None:
        super().__init__(services, pods, nodes)
        self.endpoints = endpoints

    def listen(self, mark: Callable[[str], None]) -> None:
        """Also marked when somebody else touches an Endpoints object."""
        super().listen(mark)
        self.endpoints.listeners.append(lambda old, new: mark((new or old).metadata.key))

    def plan(self, key: str, now: float) -> Plan:
        """The writes for one Service; the Endpoints of one that is gone go with it."""
        service, old = self.services.get(key), self.endpoints.get(key)
        if service is None:
            ours = old is not None and TRIGGERED in (old.metadata.annotations or {})
            return Plan((Delete(ENDPOINTS, old.metadata, "its Service is gone"),) if ours and old is not None else ())
        if service.metadata.deletion_timestamp or not service.spec.selector or service.spec.type == "ExternalName":
            return Plan()
        wanted = addresses(service, self.pods.within(service.metadata.namespace), {})
        return plan_legacy(service, wanted, old, now)
