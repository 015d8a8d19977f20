"""What a Service asks of this node, one `ServicePort` per port and family; what cannot be done is skipped and said.

Pure. Must not know: how it is done. Read next: `proxy/endpoints.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from nodecore.kube.objects import Service
from nodecore.kube.objects import ServicePort as PortView
from nodecore.net import Family

OTHER_PROXY = "service.kubernetes.io/service-proxy-name"
PROTOCOLS = ("TCP", "UDP", "SCTP")
MAX_AFFINITY_SECONDS = 86400


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of one Service: the address and port callers use, and who may answer."""

    service: str
    name: str
    protocol: str
    address: str
    port: int
    node_port: int = 0
    affinity: int = 0
    internal_local: bool = False
    external_local: bool = False
    unready_too: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something an object asks for that was not done, and why."""

    kind: str
    key: str
    reason: str


def read_service(key: str, service: Service, family: Family) -> tuple[list[ServicePort], list[Skipped]]:
    """The ports of a Service in one family; headless, ExternalName and other proxies' Services have none."""
    address = _address(service, family)
    if address is None or OTHER_PROXY in (service.metadata.labels or {}):
        return [], []
    if not address:
        return [], [Skipped("Service", key, f"clusterIP {service.spec.cluster_ip!r:.64} is not an address a Service can have")]
    ports: list[ServicePort] = []
    skipped: list[Skipped] = []
    for view in service.spec.ports or []:
        reason = _unusable(view)
        if reason:
            skipped.append(Skipped("Service", key, reason))
        else:
            ports.append(_port(key, service, view, address))
    return ports, skipped


def _address(service: Service, family: Family) -> str | None:
    """The ClusterIP of that family; None where there is none, empty where it cannot be one."""
    spec = service.spec
    if spec.type == "ExternalName":
        return None
    for text in spec.cluster_ips or [spec.cluster_ip]:
        if text in ("", "None"):
            continue
        try:
            address = ip_address(text)
        except ValueError:
            return ""
        if Family.of(address) is family:
            usable = not (address.is_loopback or address.is_multicast or address.is_unspecified or "%" in text)
            return str(address) if usable else ""
    return None


def _unusable(view: PortView) -> str:
    if view.protocol not in PROTOCOLS:
        return f"protocol {view.protocol!r:.32} is none of {', '.join(PROTOCOLS)}"
    if not 1 <= view.port <= 65535:
        return f"port {view.port} is not between 1 and 65535"
    if not 0 <= view.node_port <= 65535:
        return f"nodePort {view.node_port} is not between 1 and 65535"
    return ""


def _port(key: str, service: Service, view: PortView, address: str) -> ServicePort:
    spec = service.spec
    return ServicePort(
        service=key, name=view.name, protocol=view.protocol.lower(), address=address, port=view.port,
        node_port=view.node_port if spec.type in ("NodePort", "LoadBalancer") else 0,
        affinity=_affinity(service),
        internal_local=spec.internal_traffic_policy == "Local",
        external_local=spec.external_traffic_policy == "Local",
        unready_too=spec.publish_not_ready_addresses,
    )


def _affinity(service: Service) -> int:
    if service.spec.session_affinity != "ClientIP":
        return 0
    config = service.spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else 10800
    return min(max(seconds, 1), MAX_AFFINITY_SECONDS)


