"""Are the rules in force? A packet of our own, sent the way every other goes, tells.

A port on loopback is treated like a Service with one endpoint, which is another of our ports and changes with every write:
a transaction is in force as a whole, so where a datagram to the first port arrives says whether the last one is. Nobody
else's endpoints are troubled, and it costs two elements and a datagram a write.

Must not know: packet filters. Read next: `proxy/target.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from nodecore.errors import Fault
from nodecore.net import Family

from .endpoints import Endpoint
from .policy import NOBODY, Choice
from .services import Kind, ServicePort, Way
from .snapshot import Route

OWNER = "kube-proxy-py/probe"  # no Service's name: it has no Service
LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}
PATIENCE = 1.0  # seconds


@dataclass
class _Ports:
    """The sockets of one family: the one that is sent to, and two that take turns in answering."""

    front: socket.socket
    backs: tuple[socket.socket, socket.socket]
    turn: int = 0


class Probe:
    """One for all families."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._ports = {family: _Ports(_bound(family), (_bound(family), _bound(family))) for family in families}

    def route(self, family: Family) -> Route:
        """What is to be written next; another at each call."""
        ports, address = self._ports[family], LOOPBACK[family]
        ports.turn = 1 - ports.turn
        way = Way(Kind.EXTERNAL_IP, address, ports.front.getsockname()[1])
        endpoint = Endpoint(address, ports.backs[ports.turn].getsockname()[1])
        return Route(ServicePort(OWNER, "", "udp", (way,)), NOBODY, anywhere=Choice((endpoint,)))

    async def check(self, family: Family) -> None:
        """Send a datagram; raises `Fault` unless it takes the way that was written last."""
        ports, word = self._ports[family], os.urandom(8)
        back = ports.backs[ports.turn]
        with socket.socket(family.af, socket.SOCK_DGRAM) as sender:
            try:
                sender.sendto(word, ports.front.getsockname())
                async with asyncio.timeout(PATIENCE):
                    while await asyncio.get_running_loop().sock_recv(back, 64) != word:
                        pass
            except (OSError, TimeoutError):
                raise Fault(f"a packet through IPv{family.value}'s rules did not go where they should lead now") from None

    def close(self) -> None:
        """Give the ports back."""
        for ports in self._ports.values():
            for sock in (ports.front, *ports.backs):
                sock.close()


def _bound(family: Family) -> socket.socket:
    sock = socket.socket(family.af, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((LOOPBACK[family], 0))
    return sock
