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


def ping(addresses: Iterable[str], seconds: float) -> dict[str, float]:
    """Milliseconds by address, of those that answered in time."""
    identity, sent, found = os.getpid() & 0xFFFF, dict[tuple[int, int], tuple[str, float]](), dict[str, float]()
    socks: dict[int, socket.socket] = {}
    try:
        for number, address in enumerate(dict.fromkeys(addresses)):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            if family not in socks:
                socks[family] = _open(family)
            sent[family, number] = address, time.monotonic()
            try:
                socks[family].sendto(_request(family, identity, number), (address, 0))
            except OSError:  # no route: it does not answer
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
        return socket.socket(family, socket.SOCK_RAW, PROTOCOL[family])
    except OSError as error:
        raise Denied(f"ping: {error.strerror}") from None


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
    data = sock.recv(2048)
    if sock.family == socket.AF_INET:
        data = data[(data[0] & 15) * 4 :]
    if len(data) < 8:
        return -1
    kind, _, _, whose, number = struct.unpack_from("!BBHHH", data)
    return int(number) if (kind, whose) == (ECHO[socket.AddressFamily(sock.family)][1], identity) else -1
