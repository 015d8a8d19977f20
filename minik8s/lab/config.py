"""What a lab is to be like: the values behind `lab up`'s options, and what is wrong with them.

Pure but for `host_routes` and `free_port`, which read the host. Read next: `minik8s/lab/topology.py`.
"""

from __future__ import annotations

import re
import socket
import sys
from dataclasses import asdict, dataclass, fields
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from minik8s.lab.topology import UNDERLAY
from nodecore.errors import UserError
from nodecore.net import parse_network

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
BACKENDS = ("vxlan",)
PROXY_MODES = ("nftables",)
FIRST_API_PORT = 6443
MAX_NODES = 20


@dataclass(frozen=True, slots=True)
class LabConfig:
    """One lab; `api_port` is where the host reaches the API (0: the first free one from 6443 on)."""

    name: str = "lab"
    nodes: int = 3
    backend: str = "vxlan"
    proxy_mode: str = "nftables"
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    api_port: int = 0
    etcd_members: int = 1

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


def check(config: LabConfig, routes: list[IPv4Network]) -> None:
    """Raise `UserError` naming the first option that cannot be; `routes` are the host's."""
    check_name(config.name)
    if not 1 <= config.nodes <= MAX_NODES:
        raise UserError(f"--nodes: {config.nodes} is not between 1 and {MAX_NODES}")
    if config.etcd_members not in (1, 3) or config.etcd_members > config.nodes:
        raise UserError(f"--etcd-members: {config.etcd_members} must be 1 or 3, and not more than there are nodes")
    _one_of("--backend", config.backend, BACKENDS)
    _one_of("--proxy-mode", config.proxy_mode, PROXY_MODES)
    pods = _network("--pod-cidr", config.pod_cidr, longest=22)
    services = _network("--service-cidr", config.service_cidr, longest=28)
    if pods.overlaps(services):
        raise UserError(f"--service-cidr: {services} overlaps --pod-cidr {pods}")
    for option, network in (("--pod-cidr", pods), ("--service-cidr", services)):
        if network.overlaps(UNDERLAY):
            raise UserError(f"{option}: {network} overlaps the nodes' own network {UNDERLAY}")
        for route in routes:
            if network.overlaps(route):
                raise UserError(f"{option}: {network} overlaps the host's route to {route}")
    if not 0 <= config.api_port <= 65535:
        raise UserError(f"--api-port: {config.api_port} is not a port")


def _one_of(option: str, value: str, supported: tuple[str, ...]) -> None:
    if value not in supported:
        raise UserError(f"{option}: {value!r} is not supported; supported: {', '.join(supported)}")


def _network(option: str, text: str, *, longest: int) -> IPv4Network:
    network = parse_network(text, what=option)
    if not isinstance(network, IPv4Network):
        raise UserError(f"{option}: {text!r} is not an IPv4 network")
    if network.prefixlen > longest:
        raise UserError(f"{option}: {network} is too small; at most /{longest}")
    return network


def host_routes(table: Path = Path("/proc/net/route")) -> list[IPv4Network]:
    """The host's IPv4 routes but for the default one."""
    found = []
    for line in table.read_text().splitlines()[1:]:
        columns = line.split()
        destination, mask = (int.from_bytes(bytes.fromhex(columns[index]), sys.byteorder) for index in (1, 7))
        if mask:
            found.append(IPv4Network((destination, mask.bit_count())))
    return found


def listen_for_api(port: int) -> socket.socket:
    """The host's socket for the API: on the port asked for, or (0) on the first free one from 6443 on."""
    candidates = [port] if port else range(FIRST_API_PORT, FIRST_API_PORT + 1000)
    for candidate in candidates:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", candidate))
            sock.listen(4096)
        except OSError as error:
            sock.close()
            if port:
                raise UserError(f"--api-port: cannot listen on 127.0.0.1:{port}: {error.strerror}") from None
            continue
        return sock
    raise UserError("--api-port: no free port found from 6443 on; name one")
