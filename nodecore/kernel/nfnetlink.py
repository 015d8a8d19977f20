"""Hearing what netfilter tells through its netlink family: a socket that never waits, and the messages that have come.

Must not know: what a message says. Read next: `nodecore/kernel/rulestrace.py`, `nodecore/kernel/legacytrace.py`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import NamedTuple

from nodecore.errors import Denied, Fault
from nodecore.kernel.batch import SOL_NETLINK, attributes, make_room, messages_in, open_netlink

NETLINK_NETFILTER, NETLINK_ADD_MEMBERSHIP = 12, 1
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
NFGENMSG = 4
RECEIVE_BUFFER = 8 << 20


class Heard(NamedTuple):
    """One message: subsystem and message number in one, the number of its family, and its attributes."""

    kind: int
    family: int
    attributes: dict[int, bytes]


OVERFLOW = Heard(-1, 0, {})


def open_socket(*groups: int) -> socket.socket:
    """Member of these groups from the start."""
    sock = open_netlink(NETLINK_NETFILTER, socket.SOCK_NONBLOCK)
    try:
        make_room(sock, RECEIVE_BUFFER)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except PermissionError:
        sock.close()
        raise Denied("hearing netfilter: root is needed") from None
    return sock


def heard(sock: socket.socket) -> Iterator[Heard]:
    """What has come since the last time; `OVERFLOW` stands where there was no room for some."""
    while True:
        try:
            datagram = sock.recv(1 << 17)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise Fault(f"hearing netfilter: {error.strerror}") from None
            yield OVERFLOW
            continue
        for kind, _, body in messages_in(datagram):
            if len(body) >= NFGENMSG:
                yield Heard(kind, body[0], attributes(body, NFGENMSG))
