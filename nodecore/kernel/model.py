"""What a kernel holds of a node network, as frozen records.

    Link        a device: name, MTU, MAC, and what makes it a tunnel (Vxlan, Ipip, Wireguard, Tun), or Dummy
    Address     an IP address on a link
    Neighbour   a permanent neighbour entry: who answers for an address on a link
    FdbEntry    a permanent forwarding entry of a VXLAN link: behind which host a MAC lives
    WireguardPeer   who is behind a WireGuard link: its key, where it is reached, what it may send and get
    Route       a route of the main table
    Sysctl      one file under /proc/sys
    NetState    all of these together: what is there, or what is wanted
    Scope       which part of the kernel is ours: nothing else is read, so nothing else can be touched

Every record has a `key` (what makes two of them the same thing) and can `describe()` itself in iproute2's words.

Pure. Must not know: netlink. Read next: `nodecore/kernel/diff.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

from nodecore.net import Family, IPAddress, IPNetwork

Key = tuple[object, ...]

PROTO_BOOT = 3
PROTO_OURS = 70  # rtm_protocol of every route we write; 3 (boot) is what `ip route add` and Go flanneld write


@dataclass(frozen=True, slots=True)
class Vxlan:
    """The parameters of a VXLAN device that cannot be changed while it exists, and learning, which we never want on."""

    vni: int
    parent: str
    local: IPAddress
    port: int = 8472
    gbp: bool = False
    learning: bool = field(default=False, compare=False)

    def describe(self) -> str:
        """In words."""
        words = f"vxlan id {self.vni} local {self.local} dev {self.parent} dstport {self.port}"
        return words + (" gbp" if self.gbp else "")


@dataclass(frozen=True, slots=True)
class Ipip:
    """IPv4 in IPv4; without `remote` each route says where its packets go."""

    local: IPAddress
    remote: IPAddress | None = None

    def describe(self) -> str:
        """In words."""
        return f"ipip local {self.local} remote {self.remote or 'any'}"


@dataclass(frozen=True, slots=True)
class Wireguard:
    """A WireGuard device's own key and UDP port, which can be changed while it exists. The key is told to nobody."""

    private_key: bytes = field(default=b"", repr=False)
    port: int = 0

    def describe(self) -> str:
        """In words."""
        return f"wireguard listen-port {self.port}"


@dataclass(frozen=True, slots=True)
class Tun:
    """A device whose packets a program reads and writes; a lasting one stays when the program ends."""

    lasting: bool = True

    def describe(self) -> str:
        """In words."""
        return "tun" if self.lasting else "tun of a running program"


@dataclass(frozen=True, slots=True)
class Dummy:
    """A device that only holds addresses."""

    def describe(self) -> str:
        """In words."""
        return "dummy"


Tunnel = Vxlan | Ipip | Wireguard | Tun | Dummy


@dataclass(frozen=True, slots=True)
class Link:
    """A device. An empty `mac`, an `mtu` of 0 and None mean "as it is"."""

    name: str
    tunnel: Tunnel | None = None
    mtu: int = 0
    mac: str = ""
    up: bool = True
    defers_checksums: bool | None = field(default=None, compare=False)

    @property
    def key(self) -> Key:
        """A link is its name."""
        return (self.name,)

    def describe(self) -> str:
        """In words."""
        kind = f" {self.tunnel.describe()}" if self.tunnel else ""
        mac = f" address {self.mac}" if self.mac else ""
        return f"link {self.name}{kind} mtu {self.mtu}{mac} {'up' if self.up else 'down'}"


@dataclass(frozen=True, slots=True)
class Address:
    """An address on a link, with the length of the network it is in."""

    link: str
    address: IPAddress
    prefix: int

    @property
    def key(self) -> Key:
        """All of it."""
        return (self.link, self.address, self.prefix)

    def describe(self) -> str:
        """In words."""
        return f"address {self.address}/{self.prefix} dev {self.link}"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent neighbour entry."""

    link: str
    address: IPAddress
    mac: str

    @property
    def key(self) -> Key:
        """One entry an address and link."""
        return (self.link, self.address)

    def describe(self) -> str:
        """In words."""
        return f"neighbour {self.address} lladdr {self.mac} dev {self.link}"


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """A permanent entry in the forwarding table of a VXLAN link."""

    link: str
    mac: str
    dst: IPAddress

    @property
    def key(self) -> Key:
        """One entry a MAC and link: we write no flooding entries."""
        return (self.link, self.mac)

    def describe(self) -> str:
        """In words."""
        return f"fdb {self.mac} dst {self.dst} dev {self.link}"


@dataclass(frozen=True, slots=True)
class WireguardPeer:
    """Somebody behind a WireGuard link; keys as people write them (base64), the pre-shared one told to nobody."""

    link: str
    public_key: str
    endpoint: tuple[IPAddress, int] | None = None
    allowed: frozenset[IPNetwork] = frozenset()
    keepalive: int = 0
    psk: bytes = field(default=b"", repr=False)

    @property
    def key(self) -> Key:
        """One peer a public key and link."""
        return (self.link, self.public_key)

    def describe(self) -> str:
        """In words."""
        allowed = ",".join(sorted(map(str, self.allowed))) or "none"
        where = f" endpoint {_host_port(*self.endpoint)}" if self.endpoint else ""
        alive = f" persistent-keepalive {self.keepalive}" if self.keepalive else ""
        return f"wireguard peer {self.public_key}{where} allowed-ips {allowed}{alive} dev {self.link}"


def _host_port(address: IPAddress, port: int) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table; without `link` it is a blackhole."""

    dst: IPNetwork
    link: str = ""
    via: IPAddress | None = None
    onlink: bool = False
    metric: int = 0
    protocol: int = PROTO_OURS

    @property
    def key(self) -> Key:
        """One route a destination and metric: a second one replaces the first."""
        return (self.dst, self.metric)

    @property
    def family(self) -> Family:
        """The family of the destination."""
        return Family.of(self.dst)

    def describe(self) -> str:
        """In words."""
        if not self.link:
            return f"route blackhole {self.dst}"
        via = f" via {self.via}" if self.via else ""
        return f"route {self.dst}{via} dev {self.link}" + (" onlink" if self.onlink else "")


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A value under /proc/sys; `name` is the path below it, with slashes (a link's name may hold dots)."""

    name: str
    value: str

    @property
    def key(self) -> Key:
        """One value a name."""
        return (self.name,)

    def describe(self) -> str:
        """In words."""
        return f"sysctl {self.name} = {self.value}"


Entry = Address | Neighbour | FdbEntry | WireguardPeer | Route
Record = Link | Sysctl | Entry


@dataclass(frozen=True, slots=True)
class NetState:
    """Records of each kind; equal when they hold the same, in whatever order."""

    links: frozenset[Link] = frozenset()
    sysctls: frozenset[Sysctl] = frozenset()
    addresses: frozenset[Address] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    fdb: frozenset[FdbEntry] = frozenset()
    routes: frozenset[Route] = frozenset()
    peers: frozenset[WireguardPeer] = frozenset()

    def link(self, name: str) -> Link | None:
        """The link of that name, if it is there."""
        return next((link for link in self.links if link.name == name), None)

    def __or__(self, other: NetState) -> NetState:
        """Both together."""
        return NetState.union((self, other))

    @classmethod
    def union(cls, states: Collection[NetState]) -> NetState:
        """All together; sets are joined without a look into their records, so thousands of states are no burden."""
        none: frozenset[Any] = frozenset()
        return cls(*(none.union(*[getattr(state, one.name) for state in states]) for one in fields(cls)))


@dataclass(frozen=True, slots=True)
class Scope:
    """What is ours: these links with all that is on them, routes of our protocol number, and these single things.

    `destinations` are read whoever made the route: we are about to replace them. `networks`, where there are any, bound
    what counts as ours by its looks only: several agents may share a host. Links whose names fit `devices`, a regular
    expression, and that have an address inside `networks`, are left from an earlier life of ours. `paths` are links of
    others that our routes lead through: nothing on them is ours, but their going down takes our routes along.
    """

    links: frozenset[str] = frozenset()
    protocol: int = PROTO_OURS
    destinations: frozenset[IPNetwork] = frozenset()
    sysctls: frozenset[str] = frozenset()
    devices: str = ""
    networks: tuple[IPNetwork, ...] = ()
    paths: frozenset[str] = frozenset()

    def owns_route(self, route: Route) -> bool:
        """Whether a route is in scope."""
        if route.protocol == self.protocol and self.is_inside(route.dst.network_address):
            return True
        return route.link in self.links or route.dst in self.destinations

    def is_inside(self, address: IPAddress) -> bool:
        """Whether an address is in one of the networks, or they do not matter."""
        return not self.networks or any(address in network for network in self.networks)

    def may_own(self, link: str) -> bool:
        """Whether a link is ours, or may be one of an earlier life."""
        return link in self.links or bool(self.devices and re.fullmatch(self.devices, link))


def scope_of(wanted: NetState, devices: str = "", networks: tuple[IPNetwork, ...] = ()) -> Scope:
    """The scope that goes with a wanted state."""
    links = frozenset(link.name for link in wanted.links)
    return Scope(
        links=links,
        destinations=frozenset(route.dst for route in wanted.routes),
        sysctls=frozenset(sysctl.name for sysctl in wanted.sysctls),
        devices=devices, networks=networks,
        paths=frozenset(route.link for route in wanted.routes if route.link) - links,
    )
