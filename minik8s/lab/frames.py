"""Reads a frame with TCP in it, through whatever tunnel, and draws all its headers: pure.

    Ethernet IP TCP                             no tunnel (host-gw)
    Ethernet IP UDP VXLAN Ethernet IP TCP       vxlan
    Ethernet IP UDP IP TCP                      udp
    Ethernet IP IP TCP                          ipip

Read next: `minik8s/lab/capture.py`, which gets the frames.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from nodecore.net import IPAddress

IPV4, IPV6 = 0x0800, 0x86DD
IP_IN_IP, TCP, UDP, IP6_IN_IP = 4, 6, 17, 41
VXLAN_PORT, FLANNEL_UDP_PORT = 8472, 8285
FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")


@dataclass(frozen=True, slots=True)
class Ethernet:
    """A link-layer header."""

    source: str
    target: str
    kind: int


@dataclass(frozen=True, slots=True)
class Ip:
    """An IP header of either family, without options or extensions."""

    source: IPAddress
    target: IPAddress
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
class Vxlan:
    """A VXLAN header."""

    vni: int


Layer = Ethernet | Ip | Ports | Vxlan


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet on its way between two nodes: every header, from the outside in, and what TCP carries."""

    layers: tuple[Layer, ...]
    payload: bytes
    size: int

    @property
    def outer_ip(self) -> Ip:
        """The header the underlay sees."""
        return next(layer for layer in self.layers if isinstance(layer, Ip))

    @property
    def inner_ip(self) -> Ip:
        """The header the pods see."""
        return next(layer for layer in reversed(self.layers) if isinstance(layer, Ip))

    @property
    def tcp(self) -> Ports:
        """The innermost header."""
        found = self.layers[-1]
        assert isinstance(found, Ports)
        return found

    @property
    def vni(self) -> int | None:
        """The number of the VXLAN it went through, if it did."""
        return next((layer.vni for layer in self.layers if isinstance(layer, Vxlan)), None)

    @property
    def tunnelled(self) -> bool:
        """Whether the underlay sees other addresses than the pods."""
        return self.outer_ip is not self.inner_ip


def read(frame: bytes) -> Packet | None:
    """The headers of a frame with TCP inside, or None if it is anything else."""
    layers: list[Layer] = []
    try:
        rest = _ethernet(layers, frame)
    except (struct.error, IndexError, ValueError):
        return None
    return Packet(tuple(layers), rest, len(frame))


def _ethernet(layers: list[Layer], data: bytes) -> bytes:
    target, source, kind = struct.unpack_from("!6s6sH", data)
    layers.append(Ethernet(source.hex(":"), target.hex(":"), kind))
    if kind not in (IPV4, IPV6):
        raise ValueError(f"ethertype {kind:#06x} is not IP")
    return _ip(layers, data[14:])


def _ip(layers: list[Layer], data: bytes) -> bytes:
    if data[0] >> 4 == 6:
        size, protocol, ttl, source, target = struct.unpack_from("!4xHBB16s16s", data)
        head, length = 40, 40 + size
    else:
        start, length, ttl, protocol, source, target = struct.unpack_from("!BxH4xBB2x4s4s", data)
        head = (start & 15) * 4
    layers.append(Ip(ip_address(source), ip_address(target), protocol, ttl, length))
    rest = data[head:length]
    if protocol in (IP_IN_IP, IP6_IN_IP):
        return _ip(layers, rest)
    if protocol == UDP:
        return _udp(layers, rest)
    if protocol == TCP:
        return _tcp(layers, rest)
    raise ValueError(f"protocol {protocol} carries no TCP")


def _udp(layers: list[Layer], data: bytes) -> bytes:
    ports = Ports(*struct.unpack_from("!HH", data))
    layers.append(ports)
    if ports.target == FLANNEL_UDP_PORT:
        return _ip(layers, data[8:])
    if ports.target != VXLAN_PORT:
        raise ValueError(f"UDP port {ports.target} carries no TCP")
    layers.append(Vxlan(int.from_bytes(data[12:15], "big")))
    return _ethernet(layers, data[16:])


def _tcp(layers: list[Layer], data: bytes) -> bytes:
    source, target = struct.unpack_from("!HH", data)
    layers.append(Ports(source, target, tuple(name for bit, name in enumerate(FLAGS) if data[13] >> bit & 1)))
    return data[(data[12] >> 4) * 4:]


def draw(packet: Packet, names: dict[str, str]) -> str:
    """All headers as a drawing, what the pods see in a box of its own; `names` says who an address is."""
    inside = len(packet.layers)
    if packet.tunnelled:
        inside = packet.layers.index(packet.inner_ip)
        inside -= isinstance(packet.layers[inside - 1], Ethernet)
    outer = _rows(packet.layers[:inside], names)
    inner = _rows(packet.layers[inside:], names)
    box = _frame("inside: what the pods see", [*inner, _data(packet)]) if inner else [_data(packet)]
    return "\n".join(_frame(f"on the underlay: {packet.size} bytes", [*outer, *box]))


def _data(packet: Packet) -> str:
    text = packet.payload.split(b"\r\n")[0].decode(errors="replace")
    return _row("data", text or "(none)")


def _rows(layers: tuple[Layer, ...], names: dict[str, str]) -> list[str]:
    return [_row(*_words(layer, names)) for layer in layers]


def _words(layer: Layer, names: dict[str, str]) -> tuple[str, str]:
    """The name of a header, and what is worth telling of it."""

    def who(address: IPAddress) -> str:
        name = names.get(str(address), "")
        return f"{address} ({name})" if name else str(address)

    match layer:
        case Ethernet():
            return "Ethernet", f"{layer.source} -> {layer.target}"
        case Ip():
            way = f"{who(layer.source)} -> {who(layer.target)}"
            return f"IPv{layer.source.version}", f"{way}, ttl {layer.ttl}, {layer.length} bytes"
        case Vxlan():
            return "VXLAN", f"VNI {layer.vni}"
        case Ports():
            ports = f"{layer.source} -> {layer.target}"
            return ("TCP", f"{ports} [{' '.join(layer.flags)}]") if layer.flags else ("UDP", ports)


def _row(name: str, value: str) -> str:
    return f"{name:<8}  {value}"


def _frame(title: str, lines: list[str]) -> list[str]:
    width = max(len(title) + 2, *map(len, lines))
    top = f"┌─ {title} {'─' * (width - len(title) - 1)}┐"
    return [top, *(f"│ {line:<{width}} │" for line in lines), f"└{'─' * (width + 2)}┘"]
