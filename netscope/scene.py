"""All that is known of a cluster at one moment: its objects and every node's facts. From the cluster itself or from a bundle.

Only these fields are ever kept: no Secret, no environment of a container, no annotation but flannel's, no key.
Pure. Read next: `netscope/gather.py`, `netscope/bundle.py`, which make one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from netscope.directory import Directory, Place
from netscope.facts import Facts
from netscope.flow import PROTOCOLS, End
from netscope.policies import NetworkPolicy
from netscope.records import Connection
from nodecore.kube.objects import EndpointSlice, Node, Service
from nodecore.kube.workload import Anything, Pod

SERVICE_NAME = "kubernetes.io/service-name"
FLANNEL = ("backend-type", "backend-data", "backend-v6-data", "public-ip", "public-ipv6", "kube-subnet-manager",
           "public-ip-overwrite", "public-ipv6-overwrite")
DATA = ("backend-data", "backend-v6-data")
TOLD = ("VNI", "VtepMAC")  # of what a backend tells: no key is among them


class Objects(msgspec.Struct, frozen=True):
    """The API's, as far as they say who talks to whom."""

    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    services: tuple[Service, ...] = ()
    slices: tuple[EndpointSlice, ...] = ()
    policies: tuple[NetworkPolicy, ...] = ()
    namespaces: tuple[Anything, ...] = ()


class Scene(msgspec.Struct, frozen=True):
    """One moment, in seconds since 1970. `missing` says of a node why nothing is known of it; `skew` how far its clock is off;
    `echoes` in how many milliseconds an address answered it, `large` the same of packets as large as the tunnel takes,
    and `fits` how many bytes an echo may have that gets to all whom these do not get to;
    `connections` are those each node tracks, where they were asked for; `node_ports` is the API server's range."""

    taken: float = 0.0
    objects: Objects = Objects()
    facts: dict[str, Facts] = {}
    missing: dict[str, str] = {}
    skew: dict[str, float] = {}
    echoes: dict[str, dict[str, float]] = {}
    large: dict[str, dict[str, float]] = {}
    fits: dict[str, int] = {}
    connections: dict[str, tuple[Connection, ...]] = {}
    node_ports: tuple[int, int] = (30000, 32767)

    @property
    def directory(self) -> Directory:
        """Who has which address."""
        return directory_of(self.objects)


def directory_of(objects: Objects) -> Directory:
    """Everybody who has an address."""
    names = {ip: f"pod/{pod.metadata.key}" for pod in objects.pods if not pod.spec.host_network for ip in addresses_of(pod)}
    behind: dict[str, list[EndpointSlice]] = {}
    for each in objects.slices:
        behind.setdefault(service_of(each), []).append(each)
    return Directory((
        *(Place("node", node.metadata.name, node_addresses(node), node.metadata.name) for node in objects.nodes),
        *(Place("pod", pod.metadata.key, addresses_of(pod), pod.spec.node_name or "") for pod in objects.pods
          if not pod.finished),
        *(_service(service, behind, names) for service in objects.services),
    ))


def service_of(each: EndpointSlice) -> str:
    """The Service a slice belongs to."""
    return f"{each.metadata.namespace}/{(each.metadata.labels or {}).get(SERVICE_NAME, '')}"


def addresses_of(pod: Pod) -> tuple[str, ...]:
    """A pod's."""
    return tuple(each.ip for each in pod.status.pod_ips or ()) or tuple(filter(None, (pod.status.pod_ip,)))


def node_addresses(node: Node) -> tuple[str, ...]:
    """A node's, inside the cluster."""
    return tuple(each.address for each in node.status.addresses or () if each.type == "InternalIP")


def _service(service: Service, slices: Mapping[str, list[EndpointSlice]], names: Mapping[str, str]) -> Place:
    key = f"{service.metadata.namespace}/{service.metadata.name}"
    ports, node_ports = {}, {}
    for port in service.spec.ports or ():
        number = PROTOCOLS.get((port.protocol or "TCP").lower())
        if number:
            ports[number, port.port] = ends = tuple(_ends(slices.get(key, ()), port.name or "", names))
            if port.node_port:
                node_ports[number, port.node_port] = ends
    return Place("service", key, (*cluster_ips(service), *(service.spec.external_ips or ())), ports=ports, node_ports=node_ports)


def cluster_ips(service: Service) -> tuple[str, ...]:
    """Of both families; none of a headless one."""
    return tuple(ip for ip in service.spec.cluster_ips or [service.spec.cluster_ip] if ip and ip != "None")


def _ends(slices: Iterable[EndpointSlice], port_name: str, names: Mapping[str, str]) -> Iterator[End]:
    for each in slices:
        for port in each.ports or ():
            if (port.name or "") == port_name and port.port:
                for endpoint in each.endpoints or ():
                    for address in endpoint.addresses or ():
                        yield End(address, port.port, names.get(address, ""))


def without_secrets(objects: Objects) -> Objects:
    """The same without any annotation but flannel's, of which keys are left out."""
    def bare(found: object) -> object:
        metadata = msgspec.structs.replace(found.metadata, annotations=_told(found.metadata.annotations))  # type: ignore[attr-defined]
        return msgspec.structs.replace(found, metadata=metadata)  # type: ignore[type-var]

    return msgspec.structs.replace(objects, **{
        name: tuple(bare(each) for each in getattr(objects, name)) for name in objects.__struct_fields__})


def _told(annotations: Mapping[str, str] | None) -> dict[str, str] | None:
    kept = {}
    for name, text in (annotations or {}).items():
        word = name.rpartition("/")[2]
        if word in DATA:
            kept[name] = _public(text)
        elif word in FLANNEL:
            kept[name] = text
    return kept or None


def _public(text: str) -> str:
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return ""
    told = {name: value for name, value in found.items() if name in TOLD} if isinstance(found, dict) else None
    return msgspec.json.encode(told).decode()
