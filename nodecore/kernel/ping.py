"""ICMP echo to many addresses at once: who answers, and how fast.

Raw sockets: root is needed. Must not know: who they are. Read next: `netscope/map.py`, which draws it.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterable

from nodecore.errors import Denied

ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
# IP_MTU_DISCOVER and IPV6_MTU_DISCOVER, both to PROBE: never taken apart, whatever was learnt of the way before
IN_ONE_PIECE = {socket.AF_INET: (socket.IPPROTO_IP, 10, 3), socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 3)}


def ping(addresses: Iterable[str], seconds: float, size: int = 0) -> dict[str, float]:
    """Milliseconds by address, of those that answered in time; `size` bytes go along, in one piece."""
    identity, sent, found = os.getpid() & 0xFFFF, dict[tuple[int, int], tuple[str, float]](), dict[str, float]()
    socks: dict[int, socket.socket] = {}
    try:
        for number, address in enumerate(dict.fromkeys(addresses)):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            if family not in socks:
                socks[family] = _open(family)
            sent[family, number] = address, time.monotonic()
            try:
                socks[family].sendto(_request(family, identity, number) + bytes(size), (address, 0))
            except OSError:  # no route, or too large for the link: it does not answer
                del sent[family, number]
        deadline = time.monotonic() + seconds
        while len(found) < len(sent) and (left := deadline - time.monotonic()) > 0:
            for sock in select.select(list(socks.values()), [], [], left)[0]:
                number = _answer(sock, identity)
                if (sock.family, number) in sent:
                    address, begin = sent[sock.family, number]
                    found.setdefault(address, (time.monotonic() - begin) * 1000)
    finally:
        for sock in socks.values():
            sock.close()
    return found


def _open(family: socket.AddressFamily) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_RAW, PROTOCOL[family])
    except OSError as error:
        raise Denied(f"ping: {error.strerror}") from None
    sock.setsockopt(*IN_ONE_PIECE[family])
    return sock


def _request(family: socket.AddressFamily, identity: int, number: int) -> bytes:
    """The kernel fills in the checksum of ICMPv6."""
    packet = struct.pack("!BBHHH", ECHO[family][0], 0, 0, identity, number)
    if family == socket.AF_INET6:
        return packet
    total = sum(struct.unpack("!4H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:2] + struct.pack("!H", ~total & 0xFFFF) + packet[4:]


def _answer(sock: socket.socket, identity: int) -> int:
    """The number of the request that was answered; -1: it was something else."""
    data = sock.recv(1 << 16)
    if sock.family == socket.AF_INET:
        data = data[(data[0] & 15) * 4 :]
    if len(data) < 8:
        return -1
    kind, _, _, whose, number = struct.unpack_from("!BBHHH", data)
    return int(number) if (kind, whose) == (ECHO[socket.AddressFamily(sock.family)][1], identity) else -1
