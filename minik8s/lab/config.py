"""What a lab is to be like: the values behind `lab up`'s options, and what is wrong with them.

Pure. Must not know: the host. Read next: `minik8s/lab/topology.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from minik8s.lab import topology
from minik8s.lab.topology import UNDERLAYS, Families, Node
from nodecore.errors import UserError
from nodecore.net import Family, IPNetwork, parse_network

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
BACKENDS: dict[str, tuple[Family, ...]] = {
    "vxlan": tuple(Family), "host-gw": tuple(Family), "udp": (Family.IPV4,), "ipip": (Family.IPV4,), "wireguard": tuple(Family),
}
UNFIT_BACKENDS = {"ipsec": "its tunnels take pods' packets alone, and nodes here are to reach Services, with pods anywhere"}
STORES = ("etcd", "kube")
PROXY_MODES = ("nftables", "iptables")
MAX_NODES = 20
PODS = {Family.IPV4: "10.244.0.0/16", Family.IPV6: "fd00:10:244::/56"}
SERVICES = {Family.IPV4: "10.96.0.0/16", Family.IPV6: "fd00:10:96::/112"}
SMALLEST_PODS = {Family.IPV4: 22, Family.IPV6: 62}
NODE_SUBNET = {Family.IPV4: 24, Family.IPV6: 64}
SERVICE_SIZES = {Family.IPV4: (12, 28), Family.IPV6: (108, 124)}


@dataclass(frozen=True, slots=True)
class LabConfig:
    """One lab; `api_port` is where the host reaches the API (0: the first free one from 6443 on).

    The networks are one of each family, comma-separated; empty ones become the usual.
    """

    name: str = "lab"
    nodes: int = 3
    families: str = "ipv4"
    backend: str = "vxlan"
    flannel_store: str = "etcd"
    proxy_mode: str = "nftables"
    pod_cidr: str = ""
    service_cidr: str = ""
    api_port: int = 0
    etcd_members: int = 1

    def __post_init__(self) -> None:
        for field, usual in (("pod_cidr", PODS), ("service_cidr", SERVICES)):
            text = getattr(self, field) or ",".join(usual[family] for family in self.stack)
            object.__setattr__(self, field, text)

    @property
    def stack(self) -> Families:
        """The families, the nodes' own first."""
        return topology.CHOICES.get(self.families, ())

    @property
    def leases_are_annotations(self) -> bool:
        """Whether flanneld keeps its leases at the nodes' objects (and the controllers cut the subnets), not in etcd."""
        return self.flannel_store == "kube"

    @property
    def every_node(self) -> list[Node]:
        """All nodes."""
        return topology.nodes(self.nodes, self.stack)

    @property
    def etcd_nodes(self) -> list[Node]:
        """The nodes that run etcd."""
        return self.every_node[:self.etcd_members]

    @property
    def etcd_servers(self) -> str:
        """The value of `--etcd-servers`."""
        return ",".join(f"https://{topology.url_host(node.address)}:2379" for node in self.etcd_nodes)

    @property
    def api_url(self) -> str:
        """Where nodes reach the API."""
        return f"https://{topology.url_host(self.every_node[0].address)}:6443"

    @property
    def pods(self) -> dict[Family, IPNetwork]:
        """The pods' networks."""
        return _networks("--pod-cidr", self.pod_cidr, self)

    @property
    def services(self) -> dict[Family, IPNetwork]:
        """The Services' networks."""
        return _networks("--service-cidr", self.service_cidr, self)

    def to_json(self) -> dict[str, Any]:
        """As kept in the lab's state."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> LabConfig:
        """Back from the lab's state; keys of another version are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in document.items() if key in known})


def check_name(name: str) -> str:
    """A name that can be part of a path and of a control group."""
    if not NAME.fullmatch(name):
        raise UserError(f"--name: {name!r} must be lower-case letters, digits and '-', at most 32 of them")
    return name


def check(config: LabConfig, routes: Sequence[IPNetwork]) -> None:
    """Raise `UserError` naming the first option that cannot be; `routes` are the host's."""
    check_name(config.name)
    if not 1 <= config.nodes <= MAX_NODES:
        raise UserError(f"--nodes: {config.nodes} is not between 1 and {MAX_NODES}")
    if config.etcd_members not in (1, 3) or config.etcd_members > config.nodes:
        raise UserError(f"--etcd-members: {config.etcd_members} must be 1 or 3, and not more than there are nodes")
    _one_of("--families", config.families, tuple(topology.CHOICES))
    if config.backend in UNFIT_BACKENDS:
        raise UserError(f"--backend: {config.backend!r} is not supported: {UNFIT_BACKENDS[config.backend]}")
    _one_of("--backend", config.backend, tuple(BACKENDS))
    if not set(config.stack) <= set(BACKENDS[config.backend]):
        raise UserError(f"--backend: {config.backend!r} carries IPv4 alone, and --families is {config.families}")
    _one_of("--flannel-store", config.flannel_store, STORES)
    _one_of("--proxy-mode", config.proxy_mode, PROXY_MODES)
    for family in config.stack:
        _check_networks(config.pods[family], config.services[family], family, routes)
        room = (1 << (NODE_SUBNET[family] - config.pods[family].prefixlen)) - 1  # the first subnet is not given out
        if config.nodes > room:
            raise UserError(f"--pod-cidr: {config.pods[family]} has room for {room} nodes, and --nodes is {config.nodes}")
    if not 0 <= config.api_port <= 65535:
        raise UserError(f"--api-port: {config.api_port} is not a port")


def _check_networks(pods: IPNetwork, services: IPNetwork, family: Family, routes: Sequence[IPNetwork]) -> None:
    if pods.prefixlen > SMALLEST_PODS[family]:
        raise UserError(f"--pod-cidr: {pods} is too small; at most /{SMALLEST_PODS[family]}")
    largest, smallest = SERVICE_SIZES[family]
    if not largest <= services.prefixlen <= smallest:
        raise UserError(f"--service-cidr: {services} is not between /{largest} and /{smallest}")
    if pods.overlaps(services):
        raise UserError(f"--service-cidr: {services} overlaps --pod-cidr {pods}")
    for option, network in (("--pod-cidr", pods), ("--service-cidr", services)):
        if network.overlaps(UNDERLAYS[family]):
            raise UserError(f"{option}: {network} overlaps the nodes' own network {UNDERLAYS[family]}")
        for route in routes:
            if Family.of(route) is family and network.overlaps(route):
                raise UserError(f"{option}: {network} overlaps the host's route to {route}")


def _one_of(option: str, value: str, supported: tuple[str, ...]) -> None:
    if value not in supported:
        raise UserError(f"{option}: {value!r} is not supported; supported: {', '.join(supported)}")


def _networks(option: str, text: str, config: LabConfig) -> dict[Family, IPNetwork]:
    """One network of each family of the lab, in the order of its families."""
    networks = [parse_network(part, what=option) for part in text.split(",")]
    found = {Family.of(network): network for network in networks}
    if len(found) < len(networks) or set(found) != set(config.stack):
        wanted = " and one ".join(f"IPv{family.value}" for family in config.stack)
        raise UserError(f"{option}: {text!r} is not one {wanted} network, as --families {config.families} asks for")
    return {family: found[family] for family in config.stack}
