"""IPsec: every packet between two nodes' subnets goes through an ESP tunnel; strongSwan's charon agrees on the keys.

Each pair of nodes is one IKEv2 connection with one child, from our subnet to the peer's. Its name tells who it is for:
`192.168.77.1-10.5.1.0/24-10.5.2.0/24-192.168.77.2`, as Go flanneld names it.

Pure: what charon is to be told. Must not know: processes, sockets. Read next: `flanneld_py/attend/ipsec.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar

from flanneld_py.backends.port import Backend, peer_parts
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import NetConf, option
from nodecore.errors import UserError
from nodecore.kernel.model import NetState
from nodecore.net import Family, IPNetwork

OVERHEAD, ENCAP_OVERHEAD = 77, 8  # outer IP, ESP with the longest padding and a check value of 16 bytes; UDP around it
LONGER_CHECKS = {"sha384": 8, "sha512": 16}  # bytes more, where the cipher does not check by itself
CHECKING_CIPHERS = ("gcm", "ccm", "chacha20", "gmac")
SHORTEST_PSK = 96
IKE_PROPOSAL = "aes256-sha256-modp4096"
FENCE = "flannel-fence-"
NAME = re.compile(r"([0-9.]+)-([0-9./]+)-([0-9./]+)-([0-9.]+)")
ESP_PROPOSAL = "aes128gcm16-sha256-prfsha256-ecp256"


@dataclass(frozen=True)
class IpsecBackend(Backend):
    """The backend with its part of the network configuration; the shared key is told to nobody but charon."""

    type: ClassVar[str] = "ipsec"
    families: ClassVar[frozenset[Family]] = frozenset({Family.IPV4})
    attendant: ClassVar[bool] = True

    psk: str = field(default="", repr=False)
    udp_encap: bool = False
    esp_proposal: str = ESP_PROPOSAL
    network: IPNetwork = field(default=ip_network("0.0.0.0/0"))

    def mtu(self, underlay: Underlay) -> int:
        """That of the way out less the longest ESP of our proposal."""
        return underlay.mtu - OVERHEAD - (ENCAP_OVERHEAD if self.udp_encap else 0) - longer_check(self.esp_proposal)

    def desired(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> NetState:
        """Nothing: policies and states are charon's."""
        return NetState()

    def attended(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> tuple[Part, ...]:
        """Every peer."""
        return tuple(part for lease in leases for part in peer_parts(own, lease, self.type))


def parse_ipsec(conf: NetConf) -> IpsecBackend:
    """Read and check the options; raises `UserError` naming the key."""
    raw, block = conf.options, conf.block(Family.IPV4)
    if not block:
        raise UserError("network config: EnableIPv4: the backend 'ipsec' can do IPv4 only")
    backend = IpsecBackend(
        psk=option(raw, "PSK", str, ""), udp_encap=option(raw, "UDPEncap", bool, False),  # noqa: FBT003
        esp_proposal=option(raw, "ESPProposal", str, ESP_PROPOSAL) or ESP_PROPOSAL,
        network=block.network,
    )
    if len(backend.psk) < SHORTEST_PSK:
        raise UserError(f"network config: Backend.PSK: {len(backend.psk)} characters are too few, at least {SHORTEST_PSK}")
    return backend


def longer_check(proposal: str) -> int:
    """The bytes a proposal's check value takes beyond those counted on."""
    if any(cipher in proposal for cipher in CHECKING_CIPHERS):
        return 0
    return max((more for name, more in LONGER_CHECKS.items() if name in proposal), default=0)


def connection_name(own: Part, peer: Part) -> str:
    """What charon calls the way to a peer."""
    return f"{own.public_ip}-{own.subnet}-{peer.subnet}-{peer.public_ip}"


def child_name(own: Part, peer: Part) -> str:
    """What charon calls the tunnel in it."""
    return f"{own.subnet}-{peer.subnet}"


def named_parts(name: str) -> tuple[Part, Part] | None:
    """Us and the peer a connection is for, by its name; None for a connection flannel has not made."""
    match = NAME.fullmatch(name)
    if not match:
        return None
    public, subnet, their_subnet, their_public = match.groups()
    try:
        return Part(ip_network(subnet), ip_address(public)), Part(ip_network(their_subnet), ip_address(their_public))
    except ValueError:
        return None


def fence_name(network: IPNetwork) -> str:
    """What charon calls the fence of a network."""
    return f"{FENCE}{network}"


def is_of(name: str, network: IPNetwork | None) -> bool:
    """Whether a connection is flannel's, and of a network; without one, of any."""
    if name.startswith(FENCE):
        return not network or name == fence_name(network)
    parts = named_parts(name)
    return bool(parts) and (not network or parts[0].subnet.subnet_of(network))  # type: ignore[index, arg-type]


def connection(backend: IpsecBackend, own: Part, peer: Part) -> dict[str, Any]:
    """The connection to a peer, in VICI's words; from when it is there, nothing goes to the peer's subnet in plain."""
    child = {
        "local_ts": [str(own.subnet)], "remote_ts": [str(peer.subnet)], "esp_proposals": [backend.esp_proposal],
        "mode": "tunnel", "start_action": "trap|start", "close_action": "trap", "dpd_action": "restart", "rekey_time": "1h",
    }
    return {connection_name(own, peer): {
        "version": "2", "local_addrs": [str(own.public_ip)], "remote_addrs": [str(peer.public_ip)],
        "proposals": [IKE_PROPOSAL], "encap": "yes" if backend.udp_encap else "no", "keyingtries": "0", "dpd_delay": "30s",
        "local": {"auth": "psk"}, "remote": {"auth": "psk"}, "children": {child_name(own, peer): child},
    }}


def fence(backend: IpsecBackend, own: Part) -> dict[str, Any]:
    """Of our subnet nothing leaves for the rest of the network, but what is for a peer that charon knows."""
    rest = [str(block) for block in backend.network.address_exclude(own.subnet)]  # type: ignore[arg-type]
    child = {"local_ts": [str(own.subnet)], "remote_ts": rest, "mode": "drop", "start_action": "trap"}
    name = fence_name(backend.network)
    return {name: {"version": "2", "local_addrs": [str(own.public_ip)], "children": {name: child}}}


def shared_key(backend: IpsecBackend, part: Part) -> dict[str, Any]:
    """The key shared with whoever is at an address."""
    return {"id": f"flannel-{part.public_ip}", "type": "IKE", "data": backend.psk, "owners": [str(part.public_ip)]}
