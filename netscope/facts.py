"""What a node's network looks like, in the words of iproute2 and nft: their JSON, with the fields that are looked at.

Pure: the same from a live node and from a bundle. Must not know: how they are read. Read next: `netscope/examine.py`,
which reads them; `netscope/checks/`, which judge them.
"""

from __future__ import annotations

from typing import Any

import msgspec


class LinkInfo(msgspec.Struct, frozen=True):
    """What kind of device it is (`vxlan`, `bridge`, `veth`), and that kind's own settings."""

    info_kind: str = ""
    info_data: dict[str, Any] = {}


class Link(msgspec.Struct, frozen=True):
    """`ip -d link`."""

    ifname: str
    mtu: int = 0
    address: str = ""
    flags: tuple[str, ...] = ()
    master: str = ""
    linkinfo: LinkInfo = LinkInfo()
    xdp: Any = None

    @property
    def kind(self) -> str:
        """Empty for real hardware."""
        return self.linkinfo.info_kind

    @property
    def tunnel_from(self) -> str:
        """The host address a tunnel's packets come from; empty where none is set."""
        return str(self.linkinfo.info_data.get("local") or self.linkinfo.info_data.get("local6") or "")


class AddressInfo(msgspec.Struct, frozen=True):
    """One address of a link."""

    local: str = ""
    prefixlen: int = 0
    scope: str = ""


class LinkAddresses(msgspec.Struct, frozen=True):
    """`ip addr`."""

    ifname: str = ""
    addr_info: tuple[AddressInfo, ...] = ()


class NextHop(msgspec.Struct, frozen=True):
    """One of several ways of a route."""

    gateway: str = ""
    dev: str = ""


class Route(msgspec.Struct, frozen=True):
    """`ip route`; `table` is empty in the main one, `prefsrc` the address this node then sends from."""

    dst: str
    gateway: str = ""
    dev: str = ""
    protocol: str = ""
    type: str = ""
    table: str = ""
    metric: int = 0
    prefsrc: str = ""
    flags: tuple[str, ...] = ()
    nexthops: tuple[NextHop, ...] = ()


class RouteRule(msgspec.Struct, frozen=True):
    """`ip rule`: which packets look into which table."""

    priority: int = 0
    src: str = "all"
    srclen: int = -1
    dst: str = "all"
    dstlen: int = -1
    fwmark: str = ""
    fwmask: str = ""
    iif: str = ""
    table: str = ""
    action: str = ""


class Neighbour(msgspec.Struct, frozen=True):
    """`ip neigh`."""

    dst: str
    dev: str = ""
    lladdr: str = ""
    state: tuple[str, ...] = ()


class FdbEntry(msgspec.Struct, frozen=True):
    """`bridge fdb`; `dst` on a VXLAN's."""

    mac: str
    ifname: str = ""
    dst: str = ""


class Queue(msgspec.Struct, frozen=True):
    """`tc qdisc`."""

    kind: str
    dev: str = ""


class Filter(msgspec.Struct, frozen=True):
    """`tc filter`: what looks at packets that come in by a link (`ingress`) or leave by it (`egress`)."""

    dev: str
    side: str
    kind: str


class WireguardPeer(msgspec.Struct, frozen=True):
    """Somebody behind a WireGuard link: what everybody may know of it."""

    link: str
    public_key: str
    allowed: tuple[str, ...] = ()


class IpsecPolicy(msgspec.Struct, frozen=True):
    """`ip xfrm policy`: what is to go through IPsec from where to where, and between which hosts; none for what is blocked."""

    direction: str
    source: str
    target: str
    hosts: tuple[str, str] = ("", "")


class Chain(msgspec.Struct, frozen=True):
    """A base chain of nftables: where it stands, and what becomes of a packet that no rule judged."""

    family: str
    table: str
    name: str
    hook: str = ""
    policy: str = ""


class Rules(msgspec.Struct, frozen=True):
    """All packet rules: nft's JSON and each rule's text by `family table chain handle`; `iptables-save` by `variant family`;
    /proc/net/ip_vs and `ipset save`."""

    nft: tuple[dict[str, Any], ...] = ()
    texts: dict[str, str] = {}
    iptables: dict[str, str] = {}
    ipvs: str = ""
    ipsets: str = ""


class Settings(msgspec.Struct, frozen=True):
    """Files and clocks: the CNI configurations (None: no such directory), flannel's subnet file, this node's time (seconds since
    1970), whether a link leaves checksums to be computed later, and how many packets came in with
    a wrong one, of how many."""

    cni: tuple[str, ...] | None = None
    subnet: dict[str, str] | None = None
    clock: float = 0.0
    defers: dict[str, bool] = {}
    kernel: str = ""
    bad_checksums: dict[str, tuple[int, int]] = {}


class Facts(msgspec.Struct, tag=True, frozen=True):
    """One node. `routes` are those of the main table; `sysctls` by their path under /proc/sys; `legacy` are the tables of
    iptables-legacy; `absent` names what could not be asked, with the reason; `entered` is the path of the
    pod's namespace that they are of, empty for the node's own; `agreed` are hosts, from and to, between which IPsec has
    keys."""

    links: tuple[Link, ...] = ()
    addresses: tuple[LinkAddresses, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    fdb: tuple[FdbEntry, ...] = ()
    chains: tuple[Chain, ...] = ()
    sysctls: dict[str, str] = {}
    legacy: tuple[str, ...] = ()
    absent: dict[str, str] = {}
    other_routes: tuple[Route, ...] = ()
    route_rules: tuple[RouteRule, ...] = ()
    rules: Rules = Rules()
    settings: Settings = Settings()
    entered: str = ""
    queues: tuple[Queue, ...] = ()
    filters: tuple[Filter, ...] = ()
    peers: tuple[WireguardPeer, ...] = ()
    policies: tuple[IpsecPolicy, ...] = ()
    agreed: tuple[tuple[str, str], ...] = ()

    def links_of(self, kind: str) -> tuple[Link, ...]:
        """All of a kind."""
        return tuple(link for link in self.links if link.kind == kind)

    def link(self, name: str) -> Link | None:
        """One of that name."""
        return next((link for link in self.links if link.ifname == name), None)

    def addresses_of(self, name: str) -> tuple[AddressInfo, ...]:
        """A link's addresses, without those the kernel makes by itself."""
        return tuple(info for each in self.addresses if each.ifname == name for info in each.addr_info if info.scope != "link")

    def is_on(self, sysctl: str) -> bool:
        """Whether a switch is there and not 0."""
        return self.sysctls.get(sysctl, "0") != "0"


class Finding(msgspec.Struct, frozen=True):
    """Something wrong: on which node, what, what shows it, and the command that mends it (empty where none is known)."""

    node: str
    what: str
    evidence: str
    fix: str = ""
