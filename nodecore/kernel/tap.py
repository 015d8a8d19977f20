"""Every packet of a network namespace that passes a kernel filter, at every interface, with the kernel's own time.

One packet socket for all interfaces, or one for each of some, of kind SOCK_DGRAM: from the network header on. A packet that
leaves is copied for every socket that might want it before any filter is asked: interfaces left out are left alone.

Must not know: what the filter looks for. Read next: `netscope/bpf.py`.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from nodecore.errors import Fault
from nodecore.kernel.packetsocket import ETH_P_ALL, open_filtered, read_lost

SO_TIMESTAMPNS = 35
PACKET_OTHERHOST, PACKET_OUTGOING = 3, 4
NANOSECONDS = 1_000_000_000
RECEIVE_BUFFER = 8 << 20
MOST_SOCKETS = 64
SO_RCVBUFFORCE = 33


@dataclass(frozen=True, slots=True)
class Frame:
    """A packet from its network header on, where it was seen, and when (nanoseconds since 1970).

    `foreign`: its link-layer target is not this interface, so that nobody here will take it (but a bridge).
    """

    interface: str
    leaving: bool
    foreign: bool
    time: int
    data: bytes


class Tap:
    """Open while this lives; `read` never waits."""

    def __init__(self, program: bytes, interfaces: Sequence[str] = ()) -> None:
        several = 0 < len(interfaces) <= MOST_SOCKETS
        self._sockets = [_open(program, name) for name in (interfaces if several else ("",))]
        self.read()  # what came before the filter did

    def read(self) -> list[Frame]:
        """What has come since the last time; each interface's packets in their order."""
        return [frame for sock in self._sockets for frame in _read(sock)]

    def lost(self) -> int:
        """How many packets have been dropped for want of room since the last time this was asked."""
        return sum(map(read_lost, self._sockets))

    def close(self) -> None:
        """Hear no more."""
        for sock in self._sockets:
            sock.close()


def _open(program: bytes, interface: str) -> socket.socket:
    sock = open_filtered(socket.SOCK_DGRAM, program, 0 if interface else ETH_P_ALL)
    sock.settimeout(0)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if interface:
        with suppress(OSError):  # it has gone
            sock.bind((interface, ETH_P_ALL))
    return sock


def _read(sock: socket.socket) -> Iterator[Frame]:
    while True:
        try:
            data, extra, _, where = sock.recvmsg(65536, 64)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENETDOWN:  # told once, of an interface that is down
                raise
            continue
        interface, _, kind = where[:3]
        yield Frame(interface, kind == PACKET_OUTGOING, kind == PACKET_OTHERHOST, _time(extra), data)


def _time(extra: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("@ll", data[:16])
            return int(seconds * NANOSECONDS + nanoseconds)
    raise Fault("a packet without a time")
