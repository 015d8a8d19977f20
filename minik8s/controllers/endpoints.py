"""From a Service and its pods to endpoints: which pods, on which ports, in what state.

Pure; the two controllers that publish them (EndpointSlices, Endpoints) both ask here.
Read next: `minik8s/controllers/endpointslice.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nodecore.kube.labels import contains
from nodecore.kube.objects import View
from nodecore.kube.resource import SERVICES
from nodecore.kube.workload import Meta, Node, Pod

from .ops import Raw
from .world import Collection

ZONE = "topology.kubernetes.io/zone"
TRIGGERED = "endpoints.kubernetes.io/last-change-trigger-time"


class TargetPort(View, frozen=True):
    """core/v1 ServicePort with the pods' side of it."""

    port: int = 0
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None
    app_protocol: str | None = None


class SelectingSpec(View, frozen=True):
    """core/v1 ServiceSpec as far as it says which pods."""

    selector: dict[str, str] | None = None
    type: str = "ClusterIP"
    cluster_ip: str = ""
    ip_families: list[str] | None = None
    ports: list[TargetPort] | None = None
    publish_not_ready_addresses: bool = False


class SelectingService(View, frozen=True):
    """core/v1 Service as far as it says which pods."""

    metadata: Meta = Meta()
    spec: SelectingSpec = SelectingSpec()


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port as pods offer it."""

    name: str
    protocol: str
    port: int | None
    app_protocol: str = ""

    def raw(self) -> Raw:
        """As an EndpointPort."""
        found: Raw = {"name": self.name, "protocol": self.protocol, "port": self.port}
        return {**found, "appProtocol": self.app_protocol} if self.app_protocol else found


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One pod as an endpoint of one address family."""

    family: str
    ip: str
    pod: str
    uid: str
    namespace: str
    node: str
    zone: str
    hostname: str
    ready: bool
    serving: bool
    terminating: bool
    ports: tuple[Port, ...]

    def raw(self) -> Raw:
        """As a discovery/v1 Endpoint."""
        found: Raw = {
            "addresses": [self.ip],
            "conditions": {"ready": self.ready, "serving": self.serving, "terminating": self.terminating},
            "targetRef": self.target(),
        }
        for key, value in (("nodeName", self.node), ("zone", self.zone), ("hostname", self.hostname)):
            if value:
                found[key] = value
        return found

    def target(self) -> Raw:
        """The reference to the pod."""
        return {"kind": "Pod", "namespace": self.namespace, "name": self.pod, "uid": self.uid}


def family_of(ip: str) -> str:
    """`IPv4` or `IPv6`."""
    return "IPv6" if ":" in ip else "IPv4"


def resolve_ports(service: SelectingService, pod: Pod) -> tuple[Port, ...]:
    """The Service's ports as this pod has them; a named one that the pod lacks is left out."""
    found: list[Port] = []
    for port in service.spec.ports or ():
        target = port.target_port if port.target_port not in (None, "", 0) else port.port
        number = target if isinstance(target, int) else _named(pod, str(target), port.protocol)
        if number:
            found.append(Port(port.name, port.protocol, number, port.app_protocol or ""))
    return tuple(sorted(found))


def _named(pod: Pod, name: str, protocol: str) -> int:
    for container in pod.spec.containers or ():
        for port in container.ports or ():
            if port.name == name and port.protocol == protocol:
                return port.container_port
    return int(name) if name.isdigit() else 0


def addresses(service: SelectingService, pods: Iterable[Pod], zones: dict[str, str]) -> list[Address]:
    """The endpoints of a Service, in order; `zones` are those of the nodes."""
    found: list[Address] = []
    families = service.spec.ip_families or ["IPv4"]
    for pod in pods:
        if pod.finished or not pod.status.pod_ip or not contains(pod.metadata.labels, service.spec.selector):
            continue
        terminating = pod.metadata.deletion_timestamp is not None
        serving = pod.ready or service.spec.publish_not_ready_addresses
        hostname = pod.spec.hostname if pod.spec.subdomain == service.metadata.name else ""
        for ip in dict.fromkeys([pod.status.pod_ip, *(each.ip for each in pod.status.pod_ips or ())]):
            if ip and family_of(ip) in families:
                found.append(Address(
                    family_of(ip), ip, pod.metadata.name, pod.metadata.uid, pod.metadata.namespace, pod.spec.node_name,
                    zones.get(pod.spec.node_name, ""), hostname, serving and (
                        not terminating or service.spec.publish_not_ready_addresses), serving, terminating,
                    resolve_ports(service, pod)))
    return sorted(found)


def relevant(pod: Pod) -> tuple[object, ...]:
    """What of a pod its endpoints depend on."""
    return (pod.metadata.uid, pod.metadata.labels, pod.metadata.deletion_timestamp is None, pod.finished, pod.ready,
            pod.status.pod_ip, pod.status.pod_ips, pod.spec.node_name)


class Publisher:
    """What both controllers share: who marks which Service."""

    def __init__(self, services: Collection[SelectingService], pods: Collection[Pod], nodes: Collection[Node]) -> None:
        self.services, self.pods, self.nodes = services, pods, nodes
        self.changed: dict[str, float] = {}

    def zones(self) -> dict[str, str]:
        """The zone of each node that has one."""
        return {node.metadata.name: labels[ZONE] for node in self.nodes if ZONE in (labels := node.metadata.labels or {})}

    def listen(self, mark: Callable[[str], None]) -> None:
        """A Service's own change, or that of a pod it selects or selected."""
        def of_service(old: SelectingService | None, new: SelectingService | None) -> None:
            mark(((new or old) or SelectingService()).metadata.key)

        def of_pod(old: Pod | None, new: Pod | None) -> None:
            if old is not None and new is not None and relevant(old) == relevant(new):
                return
            for pod in (old, new):
                for service in self.services.within(pod.metadata.namespace) if pod else ():
                    if pod and service.spec.selector and contains(pod.metadata.labels, service.spec.selector):
                        mark(service.metadata.key)

        self.services.listeners.append(of_service)
        self.pods.listeners.append(of_pod)


def owner(service: SelectingService) -> Raw:
    """The reference to the Service."""
    return {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "name": service.metadata.name,
            "uid": service.metadata.uid, "controller": True, "blockOwnerDeletion": True}
