"""Sets as `ipset save` tells them, and whether a packet is in one: what Go kube-proxy's rules ask in ipvs mode.

Pure. Read next: `iptables.py`.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from netscope.walk.packet import Packet, Unread
from netscope.walk.values import PROTOCOLS, Span, fits


class IpSets:
    """All sets of a node."""

    def __init__(self, text: str = "") -> None:
        self._kinds: dict[str, list[str]] = {}
        self._members: dict[str, list[tuple[Any, ...]]] = {}
        for line in text.splitlines():
            match line.split():
                case ["create", name, kind, *_]:
                    self._kinds[name] = kind.partition(":")[2].split(",")
                    self._members[name] = []
                case ["add", name, member, *_] if name in self._members:
                    self._members[name].append(tuple(map(_part, self._kinds[name], member.split(","))))

    def has(self, name: str, directions: str, *, packet: Packet) -> bool:
        """Whether the packet is a member, its parts taken from source and destination as `directions` says."""
        if name not in self._kinds:
            raise Unread(f"set {name}, which is not known")
        key = [_of_packet(kind, side, packet) for kind, side in zip(self._kinds[name], directions.split(","), strict=False)]
        return any(all(map(fits, key, member)) for member in self._members[name])


def _of_packet(kind: str, side: str, packet: Packet) -> Any:
    source = side == "src"
    match kind:
        case "ip" | "net":
            return packet.source if source else packet.target
        case "port":
            return packet.protocol, packet.source_port if source else packet.target_port
        case "iface":
            return packet.came_by if source else packet.leaves_by
    raise Unread(f"a set of {kind}")


def _part(kind: str, text: str) -> Any:
    if kind in ("ip", "net"):
        return ip_network(text, strict=False)
    if kind != "port":
        return text
    protocol, colon, port = text.rpartition(":")
    low, _, high = port.partition("-")
    number = Span(int(low), int(high)) if high else int(low)
    return (PROTOCOLS.get(protocol, protocol), number) if colon else (Span(0, 255), number)
