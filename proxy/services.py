"""What a Service asks of this node, one `ServicePort` per port and family; what cannot be done is skipped and said.

A Service's port has several `Way`s in: its ClusterIP, external addresses (`externalIPs`, and those a load balancer was
given), its NodePort. A load balancer of ipMode Proxy is not short-circuited: its address is no way in here (KEP-1860).

Pure. Must not know: how it is done. Read next: `proxy/endpoints.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

import msgspec

from nodecore.kube.objects import Service
from nodecore.kube.objects import ServicePort as PortView
from nodecore.net import Family, IPAddress, read_address, read_network

LEFT_ALONE = frozenset({"service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"})  # whatever their value
PROTOCOLS = ("TCP", "UDP", "SCTP")
MAX_AFFINITY_SECONDS = 86400
BROADCAST = IPv4Address("255.255.255.255")
OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
ORDINARY = re.compile(rf"(?!0|127\.|169\.254\.|22[4-9]|2[3-5][0-9]){OCTET}(?:\.{OCTET}){{3}}")  # IPv4, in its usual spelling


class Kind(Enum):
    """Where callers send to."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "externalIP"
    LOAD_BALANCER = "load balancer"
    NODE_PORT = "NodePort"


class Way(msgspec.Struct, frozen=True, gc=False):
    """An address and port callers use; a NodePort has no address, being at every one of the node.

    `sources` are the only networks that may come this way, None for everybody.
    """

    kind: Kind
    address: str
    port: int
    sources: tuple[str, ...] | None = None


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One port of one Service: the ways in, the first being the ClusterIP, and who may answer."""

    service: str
    name: str
    protocol: str
    ways: tuple[Way, ...]
    affinity: int = 0
    internal_local: bool = False
    external_local: bool = False
    unready_too: bool = False
    health_check: int = 0  # the port that tells load balancers whether somebody here answers; 0 for none

    @property
    def external(self) -> bool:
        """Whether there is a way in from outside the cluster."""
        return len(self.ways) > 1


class Skipped(msgspec.Struct, frozen=True, gc=False):
    """Something an object asks for that was not done, and why."""

    kind: str
    key: str
    reason: str

    def __str__(self) -> str:
        return shown(f"{self.kind} {self.key} skipped: {self.reason}")


def shown(text: str) -> str:
    """A line that stays one and moves no cursor: what a name may be is for the API to say."""
    return text if text.isprintable() else "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def cannot_be_had(address: IPAddress) -> bool:
    """Whether no Service and no endpoint can have it: special ones, and IPv4's in the clothes of IPv6."""
    return (address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local
            or address == BROADCAST or (isinstance(address, IPv6Address) and address.ipv4_mapped is not None))


def read_service(key: str, service: Service, family: Family) -> tuple[list[ServicePort], list[Skipped]]:
    """The ports of a Service in one family; headless, ExternalName and other proxies' have none."""
    address = _address(service, family)
    if address is None or not LEFT_ALONE.isdisjoint(service.metadata.labels or ()):
        return [], []
    if not address:
        return [], [Skipped("Service", key, f"clusterIP {service.spec.cluster_ip!r:.64} is not an address a Service can have")]
    skipped: list[Skipped] = []
    external = tuple(_external(key, service, family, skipped))
    ports: list[ServicePort] = []
    for view in service.spec.ports or []:
        reason = _unusable(view)
        if reason:
            skipped.append(Skipped("Service", key, reason))
        else:
            ports.append(_port(key, service, view, address, external))
    return ports, skipped


def _address(service: Service, family: Family) -> str | None:
    """The ClusterIP of that family; None where there is none, empty where it cannot be one."""
    spec = service.spec
    if spec.type == "ExternalName":
        return None
    for text in spec.cluster_ips or [spec.cluster_ip]:
        if text not in ("", "None"):
            found = usable_address(text, family)
            if found is not None:
                return found
    return None


def usable_address(text: str, family: Family) -> str | None:
    """An address a Service can have, in its usual spelling; None for one of the other family, empty for what is none."""
    if ORDINARY.fullmatch(text):
        return text if family is Family.IPV4 else None
    try:
        address = read_address(text)
    except ValueError:
        return ""
    if Family.of(address) is not family:
        return None
    return "" if cannot_be_had(address) else str(address)


def _external(key: str, service: Service, family: Family, skipped: list[Skipped]) -> Iterator[Way]:
    """The ways in by external addresses, each address once, for port 0."""
    spec, seen = service.spec, set()
    candidates = [(Kind.EXTERNAL_IP, text) for text in spec.external_ips or []]
    if spec.type == "LoadBalancer":
        ingress = service.status.load_balancer.ingress or []
        candidates = [(Kind.LOAD_BALANCER, item.ip) for item in ingress if item.ip and item.ip_mode != "Proxy"] + candidates
    for kind, text in candidates:
        address = usable_address(text, family)
        if address == "":
            skipped.append(Skipped("Service", key, f"{kind.value} address {text!r:.64} cannot be one"))
        elif address and address not in seen:
            seen.add(address)
            yield Way(kind, address, 0, _sources(key, service, family, skipped) if kind is Kind.LOAD_BALANCER else None)


def _sources(key: str, service: Service, family: Family, skipped: list[Skipped]) -> tuple[str, ...] | None:
    """loadBalancerSourceRanges of a family; None where it names none, so that the other family's ranges close nothing."""
    found: list[str] = []
    wrong = False
    for text in service.spec.load_balancer_source_ranges or []:
        try:
            network = read_network(text.strip(), strict=False)
        except ValueError:
            wrong = True
            skipped.append(Skipped("Service", key, f"loadBalancerSourceRanges: {text!r:.64} is not a network"))
            continue
        if network.version == family.value:
            found.append(str(network))
    return tuple(sorted(set(found))) if found or wrong else None


def _unusable(view: PortView) -> str:
    if view.protocol not in PROTOCOLS:
        return f"protocol {view.protocol!r:.32} is none of {', '.join(PROTOCOLS)}"
    if not 1 <= view.port <= 65535:
        return f"port {view.port} is not between 1 and 65535"
    if not 0 <= view.node_port <= 65535:
        return f"nodePort {view.node_port} is not between 1 and 65535"
    return ""


def _port(key: str, service: Service, view: PortView, address: str, external: tuple[Way, ...]) -> ServicePort:
    spec = service.spec
    ways = [Way(Kind.CLUSTER_IP, address, view.port)]
    ways += [msgspec.structs.replace(way, port=view.port) for way in external if way.address != address]
    if view.node_port and spec.type in ("NodePort", "LoadBalancer"):
        ways.append(Way(Kind.NODE_PORT, "", view.node_port))
    external_local = spec.external_traffic_policy == "Local"
    return ServicePort(
        service=key, name=view.name, protocol=view.protocol.lower(), ways=tuple(ways), affinity=_affinity(service),
        internal_local=spec.internal_traffic_policy == "Local", external_local=external_local,
        unready_too=spec.publish_not_ready_addresses,
        health_check=spec.health_check_node_port if external_local and spec.type == "LoadBalancer" else 0,
    )


def _affinity(service: Service) -> int:
    if service.spec.session_affinity != "ClientIP":
        return 0
    config = service.spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else 10800
    return min(max(seconds, 1), MAX_AFFINITY_SECONDS)


