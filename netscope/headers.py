"""Reads the headers of a packet from its network header on, through tunnels, as far as they go: pure and total.

    IPv4/IPv6 [IPv4/IPv6 | UDP VXLAN Ethernet IPv4/IPv6] TCP/UDP/SCTP/ICMP echo

VXLAN is known by its own header and the Ethernet's inside, not by a port: flannel's is 8472, the standard's 4789, and both can be
changed. Must not know: where the bytes come from. Read next: `records.py`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import ip_address
from zlib import crc32

from netscope.flow import ICMP, ICMPV6, PORTED, SCTP, TCP, UDP
from nodecore.net import Family

IP_IN_IP, IP6_IN_IP = 4, 41
VXLAN, VXLAN_FLAGS = 0x08, 0x7B  # its first byte says that there is a number; two other bits, which extensions there are
VXLAN_AND_ETHERNET = 8 + 14
ETHERTYPES = {Family.IPV4: 0x0800, Family.IPV6: 0x86DD}
KNOWN_BY = 64  # bytes of a payload
ECHOES = {(ICMP, 8): "request", (ICMP, 0): "reply", (ICMPV6, 128): "request", (ICMPV6, 129): "reply"}
CHUNKS = {1: "INIT", 2: "INIT ACK", 6: "ABORT", 7: "SHUTDOWN", 10: "COOKIE ECHO"}
FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What was around the packet: the hosts at both ends, the VXLAN's number (None: IP in IP) and UDP port."""

    source: str
    target: str
    vni: int | None = None
    port: int = 0


@dataclass(frozen=True, slots=True)
class Headers:
    """The innermost addresses and ports; `stamp` is the same wherever this very packet is seen.

    It is the TCP sequence number, the number of an echo, or the IP id. An echo has its identifier as the port of who asks.
    """

    source: str
    target: str
    protocol: int
    source_port: int
    target_port: int
    ttl: int
    flags: tuple[str, ...] = ()
    stamp: int = 0
    tunnel: Tunnel | None = None

    @property
    def ends(self) -> tuple[str, int, str, int]:
        """Source and target with their ports, which translation changes."""
        return self.source, self.source_port, self.target, self.target_port


def read(data: bytes, *, by_payload: bool = False) -> Headers | None:
    """The headers, or None where no protocol of ours can be found.

    `by_payload`: a datagram without an identification (IPv6, and IPv4 that may not be taken apart) is known by what it carries.
    """
    try:
        found = _ip(data, None)
        if by_payload and found and found.protocol == UDP and not found.stamp:
            return replace(found, stamp=crc32(_payload(data, found)))
        return found
    except (struct.error, IndexError, ValueError):
        return None


def _payload(data: bytes, found: Headers) -> bytes:
    """The length of a datagram and its first bytes."""
    ports = struct.pack("!HH", found.source_port, found.target_port)
    begin = data.index(ports, 60 if found.tunnel and found.tunnel.vni is not None else 20)
    return data[begin + 4 : begin + 6] + data[begin + 8 : begin + 8 + KNOWN_BY]


def _ip(data: bytes, tunnel: Tunnel | None) -> Headers | None:
    if data[0] >> 4 == 6:
        protocol, ttl, source, target = struct.unpack_from("!6xBB16s16s", data)
        head, number = 40, 0
    else:
        start, number, ttl, protocol, source, target = struct.unpack_from("!BxxxH2xBB2x4s4s", data)
        head = (start & 15) * 4
    here, there = str(ip_address(source)), str(ip_address(target))
    rest = data[head:]
    if tunnel is None and protocol in (IP_IN_IP, IP6_IN_IP):
        return _ip(rest, Tunnel(here, there))
    if protocol in (ICMP, ICMPV6):
        return _echo(here, there, protocol, ttl, rest, tunnel)
    if protocol not in PORTED:
        return None
    port, to_port = struct.unpack_from("!HH", rest)
    if tunnel is None and protocol == UDP and _is_vxlan(rest[8:]):
        return _ip(rest[8 + VXLAN_AND_ETHERNET :], Tunnel(here, there, int.from_bytes(rest[12:15], "big"), to_port))
    flags: tuple[str, ...] = ()
    if protocol == TCP:
        flags = tuple(name for bit, name in enumerate(FLAGS) if rest[13] >> bit & 1)
        (number,) = struct.unpack_from("!I", rest, 4)
    elif protocol == SCTP and len(rest) > 12:
        flags = (CHUNKS.get(rest[12], f"chunk {rest[12]}"),)
    return Headers(here, there, protocol, port, to_port, ttl, flags, number, tunnel)


def _is_vxlan(data: bytes) -> bool:
    return (len(data) > VXLAN_AND_ETHERNET and data[0] & VXLAN_FLAGS == VXLAN
            and int.from_bytes(data[VXLAN_AND_ETHERNET - 2 : VXLAN_AND_ETHERNET], "big") in ETHERTYPES.values())


def _echo(here: str, there: str, protocol: int, ttl: int, rest: bytes, tunnel: Tunnel | None) -> Headers | None:
    kind = ECHOES.get((protocol, rest[0]))
    if kind is None:
        return None
    identifier, number = struct.unpack_from("!HH", rest, 4)
    port, to_port = (identifier, 0) if kind == "request" else (0, identifier)
    return Headers(here, there, protocol, port, to_port, ttl, (kind,), number << 1 | (kind == "reply"), tunnel)
