"""What makes a device a tunnel, as the nested attributes of a link message, and back.

Layouts: linux/if_link.h (VXLAN, TUN), linux/if_tunnel.h (IPIP). WireGuard tells and takes nothing here: see `wireguard.py`.

Pure. Must not know: sockets. Read next: `nodecore/kernel/messages.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address

from nodecore.kernel.batch import attribute, attributes
from nodecore.kernel.model import Dummy, Ipip, Tun, Tunnel, Vxlan, Wireguard

INFO_KIND, INFO_DATA = 1, 2
VXLAN_ID, VXLAN_LINK, VXLAN_LOCAL, VXLAN_LEARNING, VXLAN_PORT, VXLAN_LOCAL6, VXLAN_GBP = 1, 3, 4, 7, 15, 17, 23
IPTUN_LOCAL, IPTUN_REMOTE, IPTUN_TTL, IPTUN_PMTUDISC = 2, 3, 4, 10
TUN_TYPE, TUN_PERSIST, TUN_MULTI_QUEUE = 3, 6, 7
IFF_TUN = 1

KINDS: Mapping[type[Tunnel], str] = {Vxlan: "vxlan", Ipip: "ipip", Wireguard: "wireguard", Tun: "tun", Dummy: "dummy"}
U32 = struct.Struct("=I")
U16 = struct.Struct("!H")


def pack_info(tunnel: Tunnel, parent: int) -> bytes:
    """The attributes of a tunnel to make; `parent` is the number of the link it is on."""
    return attribute(INFO_KIND, KINDS[type(tunnel)].encode() + b"\0") + attribute(INFO_DATA, _pack_data(tunnel, parent))


def _pack_data(tunnel: Tunnel, parent: int) -> bytes:
    match tunnel:
        case Vxlan():
            return _pack_vxlan(tunnel, parent)
        case Ipip():
            # TTL 0 is that of the packet inside. A packet inside that may be fragmented may so be outside too.
            data = attribute(IPTUN_LOCAL, tunnel.local.packed) + attribute(IPTUN_TTL, b"\0") + attribute(IPTUN_PMTUDISC, b"\0")
            return data + (attribute(IPTUN_REMOTE, tunnel.remote.packed) if tunnel.remote else b"")
        case Wireguard() | Tun() | Dummy():
            return b""


def _pack_vxlan(vxlan: Vxlan, parent: int) -> bytes:
    local = VXLAN_LOCAL if vxlan.local.version == 4 else VXLAN_LOCAL6
    data = attribute(VXLAN_ID, U32.pack(vxlan.vni)) + attribute(VXLAN_LINK, U32.pack(parent))
    data += attribute(local, vxlan.local.packed) + attribute(VXLAN_PORT, U16.pack(vxlan.port))
    data += attribute(VXLAN_LEARNING, bytes([vxlan.learning]))
    return data + (attribute(VXLAN_GBP, b"") if vxlan.gbp else b"")


def read_info(info: bytes, names: Mapping[int, str]) -> Tunnel | None:
    """What makes a device a tunnel, None where it is none of ours; of WireGuard only that it is one."""
    found = attributes(info)
    data = attributes(found.get(INFO_DATA, b""))
    match found.get(INFO_KIND, b"").rstrip(b"\0"):
        case b"vxlan":
            return _read_vxlan(data, names)
        case b"ipip":
            remote = IPv4Address(data.get(IPTUN_REMOTE, b"\0\0\0\0"))
            return Ipip(IPv4Address(data.get(IPTUN_LOCAL, b"\0\0\0\0")), remote if int(remote) else None)
        case b"wireguard":
            return Wireguard()
        case b"dummy":
            return Dummy()
        case b"tun" if data.get(TUN_TYPE) == bytes([IFF_TUN]):
            return Tun(lasting=data.get(TUN_PERSIST) == data.get(TUN_MULTI_QUEUE) == b"\1")
    return None


def _read_vxlan(data: Mapping[int, bytes], names: Mapping[int, str]) -> Vxlan:
    (parent,) = U32.unpack(data.get(VXLAN_LINK, b"\0\0\0\0"))
    local = data.get(VXLAN_LOCAL) or data.get(VXLAN_LOCAL6) or b"\0\0\0\0"
    return Vxlan(
        vni=U32.unpack(data[VXLAN_ID])[0], parent=names.get(parent, ""), local=ip_address(local),
        port=U16.unpack(data[VXLAN_PORT])[0], gbp=VXLAN_GBP in data, learning=data.get(VXLAN_LEARNING) == b"\1",
    )
