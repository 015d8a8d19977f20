"""Names and addresses of a lab: pure, from its configuration alone.

    192.168.77.1          the switch, default gateway of every node
    192.168.77.11 .. .30  node-1 .. node-20; the first ones also run etcd, node-1 the control plane

Read next: `minik8s/lab/agents.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network

UNDERLAY = IPv4Network("192.168.77.0/24")
BRIDGE = "underlay"
GATEWAY = str(UNDERLAY[1])
FIRST_NODE = 10
SWITCH_MAC = "02:77:00:00:00:01"


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its place in the lab decides everything about it."""

    index: int

    @property
    def name(self) -> str:
        """Its host name."""
        return f"node-{self.index}"

    @property
    def address(self) -> str:
        """Its address on the underlay."""
        return str(UNDERLAY[FIRST_NODE + self.index])

    @property
    def cidr(self) -> str:
        """The address with the underlay's length."""
        return f"{self.address}/{UNDERLAY.prefixlen}"

    @property
    def mac(self) -> str:
        """The hardware address, the same in every life, so that no neighbour table goes stale."""
        return f"02:77:00:00:01:{self.index:02x}"

    @property
    def port(self) -> str:
        """The switch's end of its cable."""
        return f"port-{self.index}"

    @property
    def leads(self) -> bool:
        """Whether it runs the control plane."""
        return self.index == 1


def nodes(count: int) -> list[Node]:
    """All nodes of a lab."""
    return [Node(index) for index in range(1, count + 1)]


def etcd_nodes(count: int, members: int) -> list[Node]:
    """The nodes that run etcd."""
    return nodes(min(count, members))


def etcd_servers(count: int, members: int) -> str:
    """The value of `--etcd-servers`."""
    return ",".join(f"https://{node.address}:2379" for node in etcd_nodes(count, members))


def service_address(service_cidr: str) -> str:
    """The address of the Service `kubernetes`: the first of the range."""
    return str(IPv4Network(service_cidr)[1])
