"""Every packet of a network namespace that passes a kernel filter, at every interface, with the kernel's own time.

One packet socket for all interfaces, of kind SOCK_DGRAM: from the network header on.

Must not know: what the filter looks for. Read next: `netscope/bpf.py`.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from nodecore.errors import Fault
from nodecore.kernel.packetsocket import ETH_P_ALL, open_filtered, read_lost

SO_TIMESTAMPNS = 35
PACKET_OTHERHOST, PACKET_OUTGOING = 3, 4
NANOSECONDS = 1_000_000_000
RECEIVE_BUFFER = 8 << 20
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

    def __init__(self, program: bytes) -> None:
        self._socket = open_filtered(socket.SOCK_DGRAM, program, ETH_P_ALL)
        self._socket.settimeout(0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.read()  # what came before the filter did

    def fileno(self) -> int:
        """For select and event loops."""
        return self._socket.fileno()

    def read(self) -> list[Frame]:
        """What has come since the last time."""
        found: list[Frame] = []
        while True:
            try:
                data, extra, _, where = self._socket.recvmsg(65536, 64)
            except BlockingIOError:
                return found
            interface, _, kind = where[:3]
            found.append(Frame(interface, kind == PACKET_OUTGOING, kind == PACKET_OTHERHOST, _time(extra), data))

    def lost(self) -> int:
        """How many packets have been dropped for want of room since the last time this was asked."""
        return read_lost(self._socket)

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


def _time(extra: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("@ll", data[:16])
            return int(seconds * NANOSECONDS + nanoseconds)
    raise Fault("a packet without a time")
