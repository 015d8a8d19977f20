"""The directory as the cluster's API has it: nodes, pods, and Services with the endpoints behind each port.

Read next: `netscope/directory.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from netscope.directory import Directory, Place
from netscope.flow import PROTOCOLS, End
from nodecore.kube import resource as r
from nodecore.kube.client import KubeClient
from nodecore.kube.config import load
from nodecore.kube.objects import EndpointSlice, Node, Service
from nodecore.kube.workload import Pod

SERVICE_NAME = "kubernetes.io/service-name"


async def read(kubeconfig: str) -> Directory:
    """Everybody who has an address, in one reading."""
    async with KubeClient(load(kubeconfig), user_agent="netscope") as client:
        nodes = (await client.list(r.NODES, into=Node)).items
        pods = (await client.list(r.PODS, into=Pod)).items
        services = (await client.list(r.SERVICES, into=Service)).items
        slices = (await client.list(r.ENDPOINT_SLICES, into=EndpointSlice)).items
    names = {ip: f"pod/{pod.metadata.key}" for pod in pods for ip in _addresses(pod)}
    behind: dict[str, list[EndpointSlice]] = {}
    for each in slices:
        key = f"{each.metadata.namespace}/{(each.metadata.labels or {}).get(SERVICE_NAME, '')}"
        behind.setdefault(key, []).append(each)
    return Directory((
        *(Place("node", node.metadata.name, _node_addresses(node), node.metadata.name) for node in nodes),
        *(Place("pod", pod.metadata.key, _addresses(pod), pod.spec.node_name or "") for pod in pods if not pod.finished),
        *(_service(service, behind, names) for service in services),
    ))


def _addresses(pod: Pod) -> tuple[str, ...]:
    return tuple(each.ip for each in pod.status.pod_ips or ()) or tuple(filter(None, (pod.status.pod_ip,)))


def _node_addresses(node: Node) -> tuple[str, ...]:
    return tuple(each.address for each in node.status.addresses or () if each.type == "InternalIP")


def _service(service: Service, slices: dict[str, list[EndpointSlice]], names: dict[str, str]) -> Place:
    key = f"{service.metadata.namespace}/{service.metadata.name}"
    ports = {}
    for port in service.spec.ports or ():
        number = PROTOCOLS.get((port.protocol or "TCP").lower())
        if number:
            ports[number, port.port] = tuple(_ends(slices.get(key, ()), port.name or "", names))
    addresses = [ip for ip in service.spec.cluster_ips or [service.spec.cluster_ip] if ip and ip != "None"]
    return Place("service", key, (*addresses, *(service.spec.external_ips or ())), ports=ports)


def _ends(slices: Iterable[EndpointSlice], port_name: str, names: dict[str, str]) -> Iterable[End]:
    for each in slices:
        for port in each.ports or ():
            if (port.name or "") == port_name and port.port:
                for endpoint in each.endpoints or ():
                    for address in endpoint.addresses or ():
                        yield End(address, port.port, names.get(address, ""))
