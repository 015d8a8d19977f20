"""Connection tracking for those who watch: every flow with its state and counters, and news of those that ended.

Raw ctnetlink messages (linux/netfilter/nfnetlink_conntrack.h). Counters are there only where net.netfilter.nf_conntrack_acct is
on; nothing here switches it. Must not know: whose flows they are. Read next: `nodecore/kernel/conntrack.py`, which forgets some.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from nodecore import errors
from nodecore.kernel.batch import HEADER, attributes

NETLINK_NETFILTER, SOL_NETLINK, ADD_MEMBERSHIP = 12, 270, 1
CT_NEW, CT_GET, CT_DELETE = 0x100, 0x101, 0x102
F_REQUEST, F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
GROUP_NEW, GROUP_DESTROY = 1, 3
ORIGINAL, REPLY, STATUS, PROTOINFO, COUNT_ORIGINAL, COUNT_REPLY, IDENTITY = 1, 2, 3, 4, 9, 10, 12
SEEN_REPLY = 1 << 1
TCP_INFO, TCP_STATE = 1, 1
TCP_STATES = ("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE",
              "SYN_SENT2")
BODY, BUFFER = 20, 1 << 22


@dataclass(frozen=True, slots=True)
class Tuple:
    """One direction's addresses and ports."""

    source: str
    source_port: int
    target: str
    target_port: int


@dataclass(frozen=True, slots=True)
class Tracked:
    """One flow: as it was asked, as it is answered, how it stands; counters are None where the kernel does not count."""

    identity: int
    protocol: int
    asked: Tuple
    answered: Tuple
    state: str
    replied: bool
    packets: tuple[int, int] | None = None
    octets: tuple[int, int] | None = None


class FlowTable:
    """Listens from the moment it is made, in the network namespace this thread is in."""

    def __init__(self) -> None:
        self._news = _open()
        with suppress(OSError):
            self._news.setsockopt(socket.SOL_SOCKET, 33, BUFFER)  # SO_RCVBUFFORCE
        for group in (GROUP_NEW, GROUP_DESTROY):
            self._news.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
        self._news.settimeout(0)

    def flows(self) -> list[Tracked]:
        """All there are now, of both families."""
        with _open() as sock:
            sock.settimeout(10)
            return [flow for family in (socket.AF_INET, socket.AF_INET6) for flow in _dump(sock, family)]

    def news(self) -> tuple[list[Tracked], list[Tracked], bool]:
        """What began and what ended since the last time, and whether some news was lost."""
        begun: list[Tracked] = []
        ended: list[Tracked] = []
        lost = False
        while True:
            try:
                datagram = self._news.recv(1 << 17)
            except BlockingIOError:
                return begun, ended, lost
            except OSError:  # ENOBUFS: the kernel had no room for more
                lost = True
                continue
            for kind, flow in _messages(datagram):
                if flow and kind in (CT_NEW, CT_DELETE):
                    (begun if kind == CT_NEW else ended).append(flow)

    def close(self) -> None:
        """Listen no more."""
        self._news.close()


def _open() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError as error:
        raise errors.Denied(f"conntrack: {error.strerror}") from None


def _dump(sock: socket.socket, family: int) -> Iterator[Tracked]:
    sock.send(HEADER.pack(BODY, CT_GET, F_REQUEST | F_DUMP, 1, 0) + struct.pack("=BBH", family, 0, 0))
    while True:
        for kind, flow in _messages(sock.recv(1 << 17)):
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                raise errors.Denied("conntrack: the kernel lists no flows")
            if flow:
                yield flow


def _messages(datagram: bytes) -> Iterator[tuple[int, Tracked | None]]:
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, _, _, _ = HEADER.unpack_from(datagram, offset)
        yield kind, _tracked(datagram[offset + BODY : offset + length]) if kind >= CT_NEW else None
        offset += max((length + 3) & ~3, HEADER.size)


def _tracked(payload: bytes) -> Tracked | None:
    parts = attributes(payload)
    if ORIGINAL not in parts or REPLY not in parts:
        return None
    protocol, asked = _tuple(parts[ORIGINAL])
    _, answered = _tuple(parts[REPLY])
    info = attributes(attributes(parts.get(PROTOINFO, b"")).get(TCP_INFO, b""))
    number = info[TCP_STATE][0] if TCP_STATE in info else 0
    counts = [attributes(parts[which]) for which in (COUNT_ORIGINAL, COUNT_REPLY) if which in parts]
    both = [(_number(each.get(1, b"")), _number(each.get(2, b""))) for each in counts]
    return Tracked(
        _number(parts.get(IDENTITY, b"")), protocol, asked, answered,
        TCP_STATES[number] if info and number < len(TCP_STATES) else "", bool(_number(parts.get(STATUS, b"")) & SEEN_REPLY),
        (both[0][0], both[1][0]) if len(both) == 2 else None, (both[0][1], both[1][1]) if len(both) == 2 else None)


def _tuple(payload: bytes) -> tuple[int, Tuple]:
    parts = attributes(payload)
    addresses, ports = attributes(parts.get(1, b"")), attributes(parts.get(2, b""))
    source, target = (next((addresses[kind] for kind in kinds if kind in addresses), b"\0\0\0\0") for kinds in ((1, 3), (2, 4)))
    here, there = (_number(ports.get(which, b"")) for which in (2, 3))
    return _number(ports.get(1, b"")), Tuple(_address(source), here, _address(target), there)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _address(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
