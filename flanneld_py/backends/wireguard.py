"""WireGuard: an encrypting device, one route to the whole network, and one peer record a node.

    route  10.5.0.0/16 dev flannel-wg                          nothing for a pod ever leaves unencrypted, peer or no peer
    peer   <its public key> endpoint <its public IP>:51820 allowed-ips 10.5.2.0/24

`Mode` says how two families go: "separate" has a device each, flannel-wg and flannel-wg-v6, each over its own family;
"ipv4" and "ipv6" put both into flannel-wg, over that family; "auto" does so over the one that is likelier to get through.

Pure: options and leases in, kernel records out. Must not know: netlink, where keys are kept. Read next: `flanneld_py/wgkey.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, ClassVar

from flanneld_py.backends.port import Backend, Memory, peer_parts
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import NetConf, option
from flanneld_py.x25519 import decode_key, encode_key, public_key
from nodecore.errors import UserError
from nodecore.kernel.model import Address, Link, NetState, Route, Wireguard, WireguardPeer
from nodecore.net import Family, IPAddress, IPNetwork

DEVICE = {Family.IPV4: "flannel-wg", Family.IPV6: "flannel-wg-v6"}
OVERHEAD = 80  # outer IPv6, UDP, type, key index, counter, tag; over IPv4 it could be 60, and is 80 in Go flanneld too
MODES = ("separate", "auto", "ipv4", "ipv6")
OVER = {"ipv4": Family.IPV4, "ipv6": Family.IPV6}
PRIVATE = {
    Family.IPV4: tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))),
    Family.IPV6: (ip_network("fc00::/7"),),
}


@dataclass(frozen=True)
class WireguardBackend(Backend):
    """The backend with its part of the network configuration, the networks, and this node's key."""

    type: ClassVar[str] = "wireguard"
    devices: ClassVar[str] = r"flannel-wg(-v6)?"

    networks: tuple[IPNetwork, ...] = ()
    ports: tuple[int, int] = (51820, 51821)
    external_mtu: int = 0
    mode: str = "separate"
    keepalive: int = 0
    psk: bytes = field(default=b"", repr=False)
    private_key: bytes = field(default=b"", repr=False)
    _memory: Memory[tuple[WireguardPeer, ...]] = field(default_factory=Memory, compare=False, repr=False)

    @property
    def separate(self) -> bool:
        """Whether each family has a device of its own."""
        return self.mode == "separate"

    @property
    def untracked_ports(self) -> tuple[int, ...]:
        """Those we listen on."""
        return self.ports if self.separate else self.ports[:1]

    @property
    def identity(self) -> str:
        """The public key."""
        return encode_key(public_key(self.private_key))

    def device(self, family: Family) -> str:
        """The name of the device that carries a family."""
        return DEVICE[family if self.separate else Family.IPV4]

    def port(self, family: Family) -> int:
        """The port a peer is reached on over a family."""
        return self.ports[1] if self.separate and family is Family.IPV6 else self.ports[0]

    def check(self, underlay: Underlay) -> None:
        """The family all is to go over must be there."""
        over = OVER.get(self.mode)
        if over and over not in underlay.addresses:
            raise UserError(f"network config: Backend.Mode: {self.mode!r} needs EnableIPv{over.value}")

    def mtu(self, underlay: Underlay) -> int:
        """The MTU inside: that of the way out less all headers."""
        return (self.external_mtu or underlay.mtu) - OVERHEAD

    def lease_data(self, family: Family, identity: str) -> Mapping[str, Any]:
        """Our public key."""
        return {"PublicKey": identity}

    def desired(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> NetState:
        """The devices, the route to each network, and the peers."""
        made = self._memory.each((own, underlay), leases, lambda lease: tuple(self._peers(own, lease, underlay)))
        devices = [self._device(part, underlay) for part in own.parts]
        return NetState.union([*devices, NetState(peers=frozenset(_distinct(own, (peer for peers in made for peer in peers))))])

    def _device(self, part: Part, underlay: Underlay) -> NetState:
        name = self.device(part.family)
        port = self.port(part.family)
        return NetState(
            links=frozenset({Link(name, Wireguard(self.private_key, port), self.mtu(underlay))}),
            addresses=frozenset({Address(name, part.subnet.network_address, part.family.bits)}),
            routes=frozenset(Route(network, name) for network in self.networks if Family.of(network) is part.family),
        )

    def _peers(self, own: Lease, lease: Lease, underlay: Underlay) -> Iterator[WireguardPeer]:
        parts = tuple(peer_parts(own, lease, self.type))
        for group in ([part] for part in parts) if self.separate else [parts] if parts else []:
            key = told_key(group[-1])
            address = choose_endpoint(group, self.mode, underlay.public)
            if key and address:
                yield WireguardPeer(
                    self.device(group[0].family), key, (address, self.port(Family.of(address))),
                    frozenset(part.subnet for part in group), self.keepalive, self.psk,
                )


def _distinct(own: Lease, peers: Iterable[WireguardPeer]) -> Iterator[WireguardPeer]:
    """Of several that tell the same key, ours among them, or the same subnet, only the first: the choice must not waver."""
    seen: set[object] = {(peer_link, told_key(part)) for part in own.parts for peer_link in DEVICE.values()}
    for peer in peers:
        claims = {peer.key, *peer.allowed}
        if not claims & seen:
            seen |= claims
            yield peer


def told_key(part: Part) -> str:
    """The public key a lease tells, empty where it tells none that makes sense."""
    text = part.data.get("PublicKey")
    if not isinstance(text, str):
        return ""
    try:
        return encode_key(decode_key(text, "PublicKey"))
    except UserError:
        return ""


def choose_endpoint(parts: Sequence[Part], mode: str, ours: Mapping[Family, IPAddress]) -> IPAddress | None:
    """Where a peer is reached. In mode auto: by IPv4 if that is public, by IPv6 if both ends' are, else by IPv4."""
    theirs = {part.family: part.public_ip for part in parts if part.public_ip}
    if mode in OVER:
        return theirs.get(OVER[mode])
    four, six = theirs.get(Family.IPV4), theirs.get(Family.IPV6)
    if not four or not six:
        return four or six
    if Family.IPV6 not in ours or not _private(four):
        return four
    return four if _private(six) or _private(ours[Family.IPV6]) else six


def _private(address: IPAddress) -> bool:
    return any(address in network for network in PRIVATE[Family.of(address)])


def parse_wireguard(conf: NetConf) -> WireguardBackend:
    """Read and check the options; raises `UserError` naming the key."""
    raw = conf.options
    mode = option(raw, "Mode", str, "") or "separate"
    if mode not in MODES:
        raise UserError(f"network config: Backend.Mode: {mode!r} is not one of {', '.join(MODES)}")
    psk = option(raw, "PSK", str, "")
    return WireguardBackend(
        networks=tuple(block.network for block in conf.blocks),
        ports=(_number(raw, "ListenPort", 51820, 1), _number(raw, "ListenPortV6", 51821, 1)),
        external_mtu=_number(raw, "MTU", 0, 0), mode=mode, keepalive=_number(raw, "PersistentKeepaliveInterval", 0, 0),
        psk=decode_key(psk, "network config: Backend.PSK") if psk else b"",
    )


def _number(raw: Mapping[str, Any], key: str, default: int, low: int) -> int:
    value: int = option(raw, key, int, default)
    if not low <= value <= 65535:
        raise UserError(f"network config: Backend.{key}: {value} is not between {low} and 65535")
    return value
