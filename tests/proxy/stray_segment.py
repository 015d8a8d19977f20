"""A TCP segment that strayed: from where a connection's server is, far outside the window, else as the last one was.

Connection tracking calls it invalid, unless it is liberal, and does not translate what is invalid: then the caller answers
somebody it does not know with a reset, whose number is right (kubernetes#74839).
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from nodecore.kernel.netns import Netns
from nodecore.net import Family

TCP = struct.Struct("!HHIIBBHHH")  # ports, sequence, acknowledgment, offset, flags, window, checksum, urgent
EVERY_FRAME, ACK = 0x0003, 0x10
OFF = 1 << 29


@dataclass(frozen=True)
class Seen:
    """The ends as the server has them, and what it said last."""

    server: tuple[str, int]
    caller: tuple[str, int]
    sequence: int
    acknowledgment: int


@contextlib.contextmanager
def listening(space: Netns) -> Iterator[socket.socket]:
    """Hear every packet of a namespace."""
    with space.enter():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(EVERY_FRAME))
    with sock:
        sock.settimeout(30)
        yield sock


def last_of(heard: socket.socket, family: Family, port: int, said: bytes) -> Seen:
    """The packet in which the server at this port said something."""
    version, start, size = (4, 12, 4) if family is Family.IPV4 else (6, 8, 16)
    while True:
        data = heard.recv(65536)
        if data[0] >> 4 != version or said not in data:
            continue
        after = (data[0] & 15) * 4 if version == 4 else 40
        source, target, sequence, acknowledgment, *_ = TCP.unpack_from(data, after)
        if source == port:
            ours, theirs = (socket.inet_ntop(family.af, data[at : at + size]) for at in (start, start + size))
            return Seen((ours, source), (theirs, target), sequence, acknowledgment)


def send(space: Netns, family: Family, seen: Seen) -> None:
    """Send it, from the server's namespace."""
    fields = [seen.server[1], seen.caller[1], (seen.sequence + OFF) % (1 << 32), seen.acknowledgment, 5 << 4, ACK, 512]
    head = TCP.pack(*fields, 0, 0)
    ends = b"".join(socket.inet_pton(family.af, address) for address in (seen.server[0], seen.caller[0]))
    words = ends + struct.pack("!II", TCP.size, socket.IPPROTO_TCP) + head
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    with space.enter():
        sock = socket.socket(family.af, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with sock:
        sock.bind((seen.server[0], 0))
        sock.sendto(TCP.pack(*fields, checksum, 0), (seen.caller[0], 0))
