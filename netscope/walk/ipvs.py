"""Virtual servers as /proc/net/ip_vs tells them: what becomes of a packet that a Service's address brought to this node itself.

Pure. Read next: `host.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from netscope.walk.packet import Chance, Packet
from netscope.walk.values import PROTOCOLS
from nodecore.net import IPAddress


@dataclass(frozen=True, slots=True)
class Server:
    """One virtual server and those behind it that may be chosen."""

    text: str
    behind: tuple[tuple[IPAddress, int], ...]


class VirtualServers:
    """All of a node."""

    def __init__(self, text: str = "") -> None:
        self._found: dict[tuple[int, IPAddress, int], Server] = {}
        key = None
        for line in text.splitlines():
            match line.split():
                case ["TCP" | "UDP" | "SCTP" as protocol, end, scheduler, *_]:
                    key = PROTOCOLS[protocol.lower()], *_end(end)
                    address, port = key[1], key[2]
                    self._found[key] = Server(f"{protocol} {address}:{port} {scheduler}", ())
                case ["->", end, _, weight, *_] if key and ":" in end and end[0] != "R":
                    server = self._found[key]
                    if weight != "0":
                        self._found[key] = Server(server.text, (*server.behind, _end(end)))

    def find(self, packet: Packet) -> Server | None:
        """The one for this packet."""
        return self._found.get((packet.protocol, packet.target, packet.target_port))


def choose(server: Server, packet: Packet, chance: Chance) -> str:
    """Give the packet one of the server's ends; says which, or that there is none."""
    if not server.behind:
        return ""
    address, port = server.behind[chance.choose(len(server.behind))]
    packet.original = packet.first
    packet.target, packet.target_port = address, port
    packet.status.add("dnat")
    return f"to {address}:{port}"


def _end(text: str) -> tuple[IPAddress, int]:
    """`0A600001:0050`, `[fd00::1]:0050`."""
    host, _, port = text.rpartition(":")
    address = ip_address(host[1:-1]) if host.startswith("[") else ip_address(int(host, 16))
    return address, int(port, 16)
