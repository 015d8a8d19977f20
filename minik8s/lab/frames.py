"""Reads an Ethernet frame that carries VXLAN, and draws both sets of headers: pure, standard library.

Read next: `minik8s/lab/capture.py`, which gets the frames.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

IPV4, TCP, UDP = 0x0800, 6, 17
VXLAN_PORT = 8472
FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")


@dataclass(frozen=True, slots=True)
class Ethernet:
    """A link-layer header."""

    source: str
    target: str
    kind: int


@dataclass(frozen=True, slots=True)
class Ip:
    """An IPv4 header."""

    source: IPv4Address
    target: IPv4Address
    protocol: int
    ttl: int
    length: int


@dataclass(frozen=True, slots=True)
class Ports:
    """The start of a UDP or TCP header; `flags` only of TCP."""

    source: int
    target: int
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tunnelled:
    """One packet of a pod on its way between two nodes."""

    outer: Ethernet
    outer_ip: Ip
    udp: Ports
    vni: int
    inner: Ethernet
    inner_ip: Ip
    tcp: Ports
    payload: bytes
    size: int


def read(frame: bytes) -> Tunnelled | None:
    """The headers of a VXLAN frame with TCP inside, or None if it is anything else."""
    try:
        outer, rest = _ethernet(frame)
        if outer.kind != IPV4:
            return None
        outer_ip, rest = _ip(rest)
        udp = Ports(*struct.unpack_from("!HH", rest))
        if outer_ip.protocol != UDP or udp.target != VXLAN_PORT:
            return None
        vni = int.from_bytes(rest[12:15], "big")
        inner, rest = _ethernet(rest[16:])
        if inner.kind != IPV4:
            return None
        inner_ip, rest = _ip(rest)
        if inner_ip.protocol != TCP:
            return None
        source, target = struct.unpack_from("!HH", rest)
        flags = tuple(name for bit, name in enumerate(FLAGS) if rest[13] >> bit & 1)
        payload = rest[(rest[12] >> 4) * 4:]
    except (struct.error, IndexError):
        return None
    return Tunnelled(outer, outer_ip, udp, vni, inner, inner_ip, Ports(source, target, flags), payload, len(frame))


def _ethernet(data: bytes) -> tuple[Ethernet, bytes]:
    target, source, kind = struct.unpack_from("!6s6sH", data)
    return Ethernet(source.hex(":"), target.hex(":"), kind), data[14:]


def _ip(data: bytes) -> tuple[Ip, bytes]:
    start, length, ttl, protocol, source, target = struct.unpack_from("!BxH4xBB2x4s4s", data)
    return Ip(IPv4Address(source), IPv4Address(target), protocol, ttl, length), data[(start & 15) * 4:length]


def draw(packet: Tunnelled, names: dict[str, str]) -> str:
    """Both sets of headers as a drawing; `names` says who an address is."""

    def who(address: IPv4Address) -> str:
        name = names.get(str(address), "")
        return f"{address} ({name})" if name else str(address)

    def way(ip: Ip) -> str:
        return f"{who(ip.source)} -> {who(ip.target)}, ttl {ip.ttl}, {ip.length} bytes"

    outer = [
        ("Ethernet", f"{packet.outer.source} -> {packet.outer.target}"),
        ("IPv4", way(packet.outer_ip)),
        ("UDP", f"{packet.udp.source} -> {packet.udp.target}"),
        ("VXLAN", f"VNI {packet.vni}"),
    ]
    inner = [
        ("Ethernet", f"{packet.inner.source} -> {packet.inner.target}"),
        ("IPv4", way(packet.inner_ip)),
        ("TCP", f"{packet.tcp.source} -> {packet.tcp.target} [{' '.join(packet.tcp.flags)}]"),
        ("data", packet.payload.split(b"\r\n")[0].decode(errors="replace") or "(none)"),
    ]
    box = _frame("inside: what the pods see", _rows(inner))
    return "\n".join(_frame(f"on the underlay: {packet.size} bytes", _rows(outer) + box))


def _rows(rows: list[tuple[str, str]]) -> list[str]:
    return [f"{name:<8}  {value}" for name, value in rows]


def _frame(title: str, lines: list[str]) -> list[str]:
    width = max(len(title) + 2, *map(len, lines))
    top = f"┌─ {title} {'─' * (width - len(title) - 1)}┐"
    return [top, *(f"│ {line:<{width}} │" for line in lines), f"└{'─' * (width + 2)}┘"]
