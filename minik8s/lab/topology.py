"""Names and addresses of a lab: pure, from its configuration alone.

    192.168.77.1          fd00:77::1          the switch, default gateway of every node
    192.168.77.11 .. .30  fd00:77::11 .. ::30 node-1 .. node-20; the first ones also run etcd, node-1 the control plane

A node has an address of each family of its lab; the first one is the one it is known by. Read next: `minik8s/lab/agents.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from nodecore.net import Family, IPAddress, IPNetwork

Families = tuple[Family, ...]
CHOICES: dict[str, Families] = {"ipv4": (Family.IPV4,), "ipv6": (Family.IPV6,), "dual": (Family.IPV4, Family.IPV6)}
UNDERLAYS: dict[Family, IPNetwork] = {Family.IPV4: IPv4Network("192.168.77.0/24"), Family.IPV6: IPv6Network("fd00:77::/64")}
DEFAULT_ROUTES = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
BRIDGE = "underlay"
FIRST_NODE = 10
SWITCH_MAC = "02:77:00:00:00:01"


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its place in the lab decides everything about it."""

    index: int
    families: Families = CHOICES["ipv4"]

    @property
    def name(self) -> str:
        """Its host name."""
        return f"node-{self.index}"

    @property
    def address(self) -> str:
        """The address on the underlay by which it is known."""
        return self.addresses[0]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses on the underlay."""
        return tuple(str(_address(family, FIRST_NODE + self.index)) for family in self.families)

    @property
    def cidrs(self) -> tuple[str, ...]:
        """The addresses with the underlay's lengths."""
        return _cidrs(self.families, FIRST_NODE + self.index)

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


def nodes(count: int, families: Families = CHOICES["ipv4"]) -> list[Node]:
    """All nodes of a lab."""
    return [Node(index, families) for index in range(1, count + 1)]


def switch_cidrs(families: Families) -> tuple[str, ...]:
    """The switch's own addresses."""
    return _cidrs(families, 1)


def default_routes(families: Families) -> list[tuple[str, str]]:
    """A node's way to everywhere else: destination and gateway."""
    return [(DEFAULT_ROUTES[family], str(_address(family, 1))) for family in families]


def url_host(address: str) -> str:
    """An address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


def _address(family: Family, number: int) -> IPAddress:
    """The `number`-th address as a reader counts: fd00:77::11 follows 192.168.77.11."""
    return UNDERLAYS[family][number if family is Family.IPV4 else int(str(number), 16)]


def _cidrs(families: Families, number: int) -> tuple[str, ...]:
    return tuple(f"{_address(family, number)}/{UNDERLAYS[family].prefixlen}" for family in families)
