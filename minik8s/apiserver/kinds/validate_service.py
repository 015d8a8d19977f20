"""Does a Service make sense, and which of its changes are allowed.

Pure and total. Must not know: HTTP, storage, which addresses are free (`storage/allocate.py`). Read next: `causes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minik8s.apiserver.kinds import causes, service_families
from minik8s.apiserver.kinds.defaults_pod import each, section
from minik8s.apiserver.request.status import Cause
from nodecore.net import read_address

Object = dict[str, Any]
TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
PROTOCOLS = ("TCP", "UDP", "SCTP")
POLICIES = ("Cluster", "Local")


def service(obj: Object) -> Iterator[Cause]:
    """All that is wrong with a Service."""
    spec = section(obj, "spec")
    kind = spec.get("type")
    yield from causes.one_of("spec.type", kind, TYPES)
    yield from causes.one_of("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None"))
    for field in ("internalTrafficPolicy", "externalTrafficPolicy"):
        if spec.get(field):
            yield from causes.one_of(f"spec.{field}", spec[field], POLICIES)
    yield from causes.labels("spec.selector", spec.get("selector"))
    yield from _addresses(spec)
    if kind == "ExternalName":
        if not spec.get("externalName"):
            yield causes.required("spec.externalName")
        return
    ports = each(spec, "ports")
    if not ports and spec.get("clusterIP") != "None":
        yield causes.required("spec.ports")
    if spec.get("healthCheckNodePort") and (kind, spec.get("externalTrafficPolicy")) != ("LoadBalancer", "Local"):
        yield causes.wrong("spec.healthCheckNodePort", spec["healthCheckNodePort"],
                           "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
    yield from _ports(ports, node_ports=kind in ("NodePort", "LoadBalancer"))


def _addresses(spec: Object) -> Iterator[Cause]:
    address = spec.get("clusterIP")
    if address and address != "None" and not _is_address(address):
        yield causes.wrong("spec.clusterIPs[0]", address, "must be a valid IP address")
    if address == "None" and spec.get("type") in ("NodePort", "LoadBalancer"):
        yield causes.wrong("spec.clusterIPs[0]", "None", "may not be set to 'None' for NodePort and LoadBalancer services")
    yield from service_families.well_formed(spec)
    listed = spec.get("clusterIPs") or []
    if listed and address and listed[0] != address:
        yield causes.wrong("spec.clusterIPs", listed, "first value must match `clusterIP`")
    for field in ("externalIPs", "loadBalancerSourceRanges"):
        for index, value in enumerate(spec.get(field) or []):
            if field == "externalIPs" and not _is_address(value):
                yield causes.wrong(f"spec.{field}[{index}]", value, "must be a valid IP address")
            if field == "externalIPs":
                yield from causes.everybodys(f"spec.{field}[{index}]", value)


def _is_address(text: Any) -> bool:
    try:
        read_address(str(text))
    except ValueError:
        return False
    return True


def _ports(ports: list[Object], *, node_ports: bool) -> Iterator[Cause]:
    names: set[str] = set()
    pairs: set[tuple[Any, Any]] = set()
    nodes: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        yield from causes.port(f"{field}.port", port.get("port"))
        yield from causes.one_of(f"{field}.protocol", port.get("protocol"), PROTOCOLS)
        yield from _target(f"{field}.targetPort", port.get("targetPort"))
        name = str(port.get("name") or "")
        if len(ports) > 1 and not name:
            yield causes.required(f"{field}.name")
        if name:
            yield from causes.label_name(f"{field}.name", name)
            if name in names:
                yield causes.duplicate(f"{field}.name", name)
        names.add(name)
        pair = (port.get("protocol"), port.get("port"))
        if pair in pairs:
            yield causes.duplicate(field, {"protocol": pair[0], "port": pair[1]})
        pairs.add(pair)
        taken = port.get("nodePort")
        if taken and not node_ports:
            yield causes.forbidden(f"{field}.nodePort", "may not be used when `type` is 'ClusterIP'")
        if taken and (port.get("protocol"), taken) in nodes:
            yield causes.duplicate(f"{field}.nodePort", taken)
        nodes.add((port.get("protocol"), taken))


def _target(field: str, value: Any) -> Iterator[Cause]:
    if isinstance(value, str):
        if len(value) > 15 or not causes.LABEL.fullmatch(value):
            yield causes.wrong(field, value, "must be a port number, or a port name of at most 15 characters")
    else:
        yield from causes.port(field, value)


def service_change(old: Object, new: Object) -> Iterator[Cause]:
    """A Service keeps its address for life, unless it is or becomes an ExternalName."""
    before, after = section(old, "spec"), section(new, "spec")
    if "ExternalName" in (before.get("type"), after.get("type")):
        return
    if before.get("clusterIP") and before["clusterIP"] != after.get("clusterIP"):
        yield causes.immutable("spec.clusterIPs[0]", after.get("clusterIP"))
    ports = [spec.get("healthCheckNodePort") for spec in (before, after)]
    if all(ports) and ports[0] != ports[1]:
        yield causes.immutable("spec.healthCheckNodePort", ports[1])
    yield from service_families.changed(before, after)
