"""What a Service's address fields say together, before and after an address is chosen; and what an update keeps.

Pure. Must not know: which addresses are free. Read next: `service_families.py`, `storage/allocate.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.kinds import service_families
from minik8s.apiserver.kinds.defaults_pod import each, section

Object = dict[str, Any]
WITH_NODE_PORTS = ("NodePort", "LoadBalancer")


def addresses_of(obj: Object) -> list[str]:
    """The cluster IPs a Service holds, none where it has none of its own."""
    spec = section(obj, "spec")
    listed = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
    return [] if spec.get("type") == "ExternalName" else [str(address) for address in listed if address not in ("", "None")]


def node_ports_of(obj: Object) -> set[int]:
    """The node ports a Service holds."""
    spec = section(obj, "spec")
    found = {port.get("nodePort") for port in each(spec, "ports")} | {spec.get("healthCheckNodePort")}
    return {port for port in found if isinstance(port, int) and port}


def ports_in_need(obj: Object) -> list[Object]:
    """The ports that are to be given a node port."""
    spec = section(obj, "spec")
    if spec.get("type") not in WITH_NODE_PORTS or spec.get("allocateLoadBalancerNodePorts") is False:
        return []
    return [port for port in each(spec, "ports") if not port.get("nodePort")]


def needs_health_port(obj: Object) -> bool:
    """Whether a balancer asks the nodes who has endpoints, and has no port yet to ask at."""
    spec = section(obj, "spec")
    return _asks_nodes(spec) and not spec.get("healthCheckNodePort")


def _asks_nodes(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def agree(obj: Object) -> None:
    """Let `clusterIP` and `clusterIPs` say the same; an ExternalName has neither."""
    spec = section(obj, "spec")
    if spec.get("type") == "ExternalName":
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
            spec.pop(field, None)
    elif spec.get("clusterIPs"):
        spec["clusterIP"] = spec["clusterIPs"][0]
    elif spec.get("clusterIP"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def carry(old: Object, new: Object) -> None:
    """Keep what was allocated where an update does not mention it; drop what its new type has no use for."""
    before, after = section(old, "spec"), section(new, "spec")
    if after.get("type") != "ExternalName" and before.get("type") != "ExternalName" and before.get("clusterIP"):
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if field in before and not after.get(field):
                after[field] = before[field]
        service_families.downgrade(before, after)
    if _asks_nodes(after) and _asks_nodes(before) and not after.get("healthCheckNodePort"):
        after["healthCheckNodePort"] = before.get("healthCheckNodePort")
    elif not _asks_nodes(after) and after.get("healthCheckNodePort") == before.get("healthCheckNodePort"):
        after.pop("healthCheckNodePort", None)
    if after.get("type") in WITH_NODE_PORTS:
        held = {(port.get("protocol"), port.get("port")): port.get("nodePort") for port in each(before, "ports")}
        taken = node_ports_of(new)
        for port in each(after, "ports"):
            kept = held.get((port.get("protocol"), port.get("port")))
            if not port.get("nodePort") and kept and kept not in taken:
                port["nodePort"] = kept
        return
    held_ports = node_ports_of(old)
    for port in each(after, "ports"):
        if before.get("type") in WITH_NODE_PORTS and port.get("nodePort") in held_ports:
            port.pop("nodePort")
    if before.get("type") in WITH_NODE_PORTS:
        after.pop("externalTrafficPolicy", None)
        after.pop("allocateLoadBalancerNodePorts", None)
