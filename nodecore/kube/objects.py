"""Typed views of API objects: only the fields the agents read, so that nothing else is decoded or kept.

An absent field, and a JSON null where Go writes one for an empty list, reads as empty. Values are not judged here:
a port may be out of range and a name may be strange; whoever uses one checks it.

Read next: `nodecore/kube/informer.py`.
"""

from __future__ import annotations

import msgspec

ACRONYMS = {"ip": "IP", "ips": "IPs", "cidr": "CIDR", "cidrs": "CIDRs"}


def json_name(field: str) -> str:
    """`cluster_ips` as Kubernetes spells it: `clusterIPs`."""
    first, *rest = field.split("_")
    return first + "".join(ACRONYMS.get(word, word.title()) for word in rest)


class View(msgspec.Struct, rename=json_name, frozen=True, gc=False):
    """What all views share: Kubernetes' spelling in JSON, never changed once read."""


class ObjectMeta(View, frozen=True):
    """meta/v1 ObjectMeta."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class ServicePort(View, frozen=True):
    """core/v1 ServicePort; `target_port` is the endpoint controller's affair."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    node_port: int = 0


class ClientIPConfig(View, frozen=True):
    """core/v1 ClientIPConfig."""

    timeout_seconds: int = 10800


class SessionAffinityConfig(View, frozen=True):
    """core/v1 SessionAffinityConfig."""

    client_ip: ClientIPConfig | None = None


class ServiceSpec(View, frozen=True):
    """core/v1 ServiceSpec."""

    type: str = "ClusterIP"
    cluster_ip: str = ""
    cluster_ips: list[str] | None = None
    ports: list[ServicePort] | None = None
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: str = "Cluster"
    external_traffic_policy: str = "Cluster"
    publish_not_ready_addresses: bool = False
    external_ips: list[str] | None = None
    load_balancer_source_ranges: list[str] | None = None
    health_check_node_port: int = 0


class LoadBalancerIngress(View, frozen=True):
    """core/v1 LoadBalancerIngress."""

    ip: str = ""
    ip_mode: str = "VIP"


class LoadBalancerStatus(View, frozen=True):
    """core/v1 LoadBalancerStatus."""

    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(View, frozen=True):
    """core/v1 ServiceStatus."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(View, frozen=True):
    """core/v1 Service."""

    metadata: ObjectMeta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class EndpointConditions(View, frozen=True):
    """discovery/v1 EndpointConditions; null means unknown, which counts as ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(View, frozen=True):
    """discovery/v1 ForZone and ForNode."""

    name: str = ""


class EndpointHints(View, frozen=True):
    """discovery/v1 EndpointHints: the zones and nodes whose callers an endpoint is meant for."""

    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class Endpoint(View, frozen=True):
    """discovery/v1 Endpoint."""

    addresses: list[str] | None = None
    conditions: EndpointConditions = EndpointConditions()
    node_name: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None


class EndpointPort(View, frozen=True):
    """discovery/v1 EndpointPort."""

    port: int | None = None
    name: str | None = None
    protocol: str | None = None


class EndpointSlice(View, frozen=True):
    """discovery/v1 EndpointSlice."""

    metadata: ObjectMeta
    address_type: str = "IPv4"
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class Taint(View, frozen=True):
    """core/v1 Taint."""

    key: str
    effect: str = ""
    value: str = ""


class NodeSpec(View, frozen=True):
    """core/v1 NodeSpec."""

    pod_cidr: str = ""
    pod_cidrs: list[str] | None = None
    taints: list[Taint] | None = None
    unschedulable: bool = False


class NodeAddress(View, frozen=True):
    """core/v1 NodeAddress."""

    type: str
    address: str


class NodeCondition(View, frozen=True):
    """core/v1 NodeCondition."""

    type: str
    status: str
    reason: str = ""


class NodeStatus(View, frozen=True):
    """core/v1 NodeStatus."""

    addresses: list[NodeAddress] | None = None
    conditions: list[NodeCondition] | None = None


class Node(View, frozen=True):
    """core/v1 Node."""

    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()
