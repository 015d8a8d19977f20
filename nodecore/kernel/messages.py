"""Kernel records as netlink message bodies, and back.

Layouts: linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h; what makes a link a tunnel is in `linkinfo.py`.
Links are named in records and numbered in messages: whoever calls passes the number.

Bytes in and out. Must not know: sockets. Read next: `nodecore/kernel/netlink.py`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from nodecore.kernel.batch import CREATE, EXCL, REPLACE, Message, attribute, attributes
from nodecore.kernel.linkinfo import pack_info, read_info
from nodecore.kernel.model import Address, FdbEntry, Link, Neighbour, Route
from nodecore.net import Family, IPAddress

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO = 1, 3, 4, 18
IFA_ADDRESS, IFA_LOCAL = 1, 2
NDA_DST, NDA_LLADDR, NDA_CACHEINFO, NDA_IFINDEX = 1, 2, 3, 8
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15

IFF_UP = 1
AF_BRIDGE = 7
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_SELF = 0x02
IFA_F_NODAD = 0x02
RT_TABLE_MAIN = 254
RTN_UNICAST, RTN_BLACKHOLE = 1, 6
RTNH_F_ONLINK = 4
SCOPE_UNIVERSE, SCOPE_LINK = 0, 253
KERNEL_PROTOCOL = 2
IPV6_DEFAULT_METRIC = 1024
MAC_LENGTH = 6  # an IPIP device has its IP address for one

IFINFO = struct.Struct("=BxHiII")
IFADDR = struct.Struct("=BBBBI")
NDMSG = struct.Struct("=BxxxiHBB")
RTMSG = struct.Struct("=BBBBBBBBI")
U32 = struct.Struct("=I")

Entry = Address | Neighbour | FdbEntry | Route


def _u32(value: int) -> bytes:
    return U32.pack(value)


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _mac_text(raw: bytes) -> str:
    return raw.hex(":")


def new_link(link: Link, parent: int) -> Message:
    """Make a tunnel device, down: it is set up by a second message, once its address is right."""
    body = IFINFO.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, link.name.encode() + b"\0")
    if link.mtu:
        body += attribute(IFLA_MTU, _u32(link.mtu))
    if link.mac:
        body += attribute(IFLA_ADDRESS, _mac_bytes(link.mac))
    if link.tunnel:
        body += attribute(IFLA_LINKINFO, pack_info(link.tunnel, parent))
    return Message(RTM_NEWLINK, CREATE | EXCL, body)


def change_link(index: int, *, mtu: int | None = None, mac: str | None = None, up: bool | None = None) -> Message:
    """Change a living device."""
    flags = IFF_UP if up else 0
    mask = IFF_UP if up is not None else 0
    body = IFINFO.pack(0, 0, index, flags, mask)
    if mtu is not None:
        body += attribute(IFLA_MTU, _u32(mtu))
    if mac is not None:
        body += attribute(IFLA_ADDRESS, _mac_bytes(mac))
    return Message(RTM_NEWLINK, 0, body)


def delete_link(index: int) -> Message:
    """Delete a device."""
    return Message(RTM_DELLINK, 0, IFINFO.pack(0, 0, index, 0, 0))


def put(entry: Entry, index: int) -> Message:
    """Add an entry or replace the one with its key."""
    flags = CREATE | REPLACE
    match entry:
        case Address():
            return Message(RTM_NEWADDR, flags, _address(entry, index))
        case Neighbour() | FdbEntry():
            return Message(RTM_NEWNEIGH, flags, _neighbour(entry, index))
        case Route():
            return Message(RTM_NEWROUTE, flags, _route(entry, index))


def remove(entry: Entry, index: int) -> Message:
    """Delete an entry."""
    match entry:
        case Address():
            return Message(RTM_DELADDR, 0, _address(entry, index))
        case Neighbour() | FdbEntry():
            return Message(RTM_DELNEIGH, 0, _neighbour(entry, index))
        case Route():
            return Message(RTM_DELROUTE, 0, _route(entry, index))


def _address(entry: Address, index: int) -> bytes:
    family = Family.of(entry.address)
    packed = entry.address.packed
    flags = IFA_F_NODAD if family is Family.IPV6 else 0
    return (
        IFADDR.pack(family.af, entry.prefix, flags, SCOPE_UNIVERSE, index)
        + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    )


def _neighbour(entry: Neighbour | FdbEntry, index: int) -> bytes:
    mac = attribute(NDA_LLADDR, _mac_bytes(entry.mac))
    if isinstance(entry, FdbEntry):
        return NDMSG.pack(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF, 0) + mac + attribute(NDA_DST, entry.dst.packed)
    family = Family.of(entry.address)
    return NDMSG.pack(family.af, index, NUD_PERMANENT, 0, RTN_UNICAST) + attribute(NDA_DST, entry.address.packed) + mac


def _route(entry: Route, index: int) -> bytes:
    kind = RTN_UNICAST if entry.link else RTN_BLACKHOLE
    scope = SCOPE_LINK if entry.link and not entry.via and entry.family is Family.IPV4 else SCOPE_UNIVERSE
    flags = RTNH_F_ONLINK if entry.onlink else 0
    body = RTMSG.pack(
        entry.family.af, entry.dst.prefixlen, 0, 0, RT_TABLE_MAIN, entry.protocol, scope, kind, flags
    ) + attribute(RTA_DST, entry.dst.network_address.packed)
    if entry.link:
        body += attribute(RTA_OIF, _u32(index))
    if entry.via:
        body += attribute(RTA_GATEWAY, entry.via.packed)
    if entry.metric:
        body += attribute(RTA_PRIORITY, _u32(entry.metric))
    return body


def link_name(body: bytes) -> tuple[int, str]:
    """The number and the name of a device."""
    found = attributes(body, IFINFO.size)
    return IFINFO.unpack_from(body)[2], found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode()


def read_link(body: bytes, names: Mapping[int, str]) -> tuple[int, Link]:
    """A device and its number; `names` knows the parent."""
    _, _, index, flags, _ = IFINFO.unpack_from(body)
    found = attributes(body, IFINFO.size)
    tunnel = read_info(found.get(IFLA_LINKINFO, b""), names)
    (mtu,) = U32.unpack(found[IFLA_MTU])
    name = found[IFLA_IFNAME].rstrip(b"\0").decode()
    mac = found.get(IFLA_ADDRESS, b"")
    return index, Link(name, tunnel, mtu, _mac_text(mac) if len(mac) == MAC_LENGTH else "", up=bool(flags & IFF_UP))


def read_address(body: bytes, names: Mapping[int, str]) -> Address | None:
    """An address, unless the kernel made it by itself (link-local)."""
    _, prefix, _, _, index = IFADDR.unpack_from(body)
    found = attributes(body, IFADDR.size)
    address = ip_address(found.get(IFA_LOCAL) or found[IFA_ADDRESS])
    if address.is_link_local and address.version == 6:
        return None
    return Address(names.get(index, ""), address, prefix)


def read_neighbour(body: bytes, names: Mapping[int, str]) -> Neighbour | FdbEntry | None:
    """A permanent neighbour or forwarding entry; None for what the kernel learned, and for flooding entries."""
    family, index, state, flags, _ = NDMSG.unpack_from(body)
    found = attributes(body, NDMSG.size)
    dst, mac = found.get(NDA_DST), found.get(NDA_LLADDR, b"")
    if not state & NUD_PERMANENT or dst is None or len(mac) != 6:
        return None
    link = names.get(index, "")
    if family == AF_BRIDGE:
        return FdbEntry(link, _mac_text(mac), ip_address(dst)) if flags & NTF_SELF and any(mac) else None
    return Neighbour(link, ip_address(dst), _mac_text(mac))


def read_route(body: bytes, names: Mapping[int, str]) -> Route | None:
    """A unicast or blackhole route that somebody made; None for the kernel's own and for kinds we never write."""
    family, length, _, _, table, protocol, _, kind, flags = RTMSG.unpack_from(body)
    if table != RT_TABLE_MAIN or protocol == KERNEL_PROTOCOL or kind not in (RTN_UNICAST, RTN_BLACKHOLE):
        return None
    found = attributes(body, RTMSG.size)
    zero = b"\0" * (4 if family == socket.AF_INET else 16)
    dst = ip_network((found.get(RTA_DST, zero), length))
    (index,) = U32.unpack(found.get(RTA_OIF, b"\0\0\0\0"))
    (metric,) = U32.unpack(found.get(RTA_PRIORITY, b"\0\0\0\0"))
    if family == socket.AF_INET6 and metric == IPV6_DEFAULT_METRIC:
        metric = 0
    via: IPAddress | None = ip_address(found[RTA_GATEWAY]) if RTA_GATEWAY in found else None
    link = names.get(index, "") if kind == RTN_UNICAST else ""
    return Route(dst, link, via, bool(flags & RTNH_F_ONLINK), metric, protocol)
