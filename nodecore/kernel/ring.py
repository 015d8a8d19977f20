"""Packets of a network namespace in a ring of memory shared with the kernel (packet(7), TPACKET_V3), taken a block at a time.

A block holds many packets and is handed over when it is full or some time has passed: taking one is a single copy, whatever
is in it, and no Python object is made for a packet. What the ring had no room for is counted by the kernel.

Must not know: what a block is for. Read next: `netscope/capture/blocks.py`, which reads them.
"""

from __future__ import annotations

import ctypes
import mmap
import select
import socket
import struct

from nodecore.errors import Fault
from nodecore.kernel.packetsocket import ETH_P_ALL, SOL_PACKET, open_filtered, read_lost

PACKET_RX_RING, PACKET_VERSION, TPACKET_V3 = 5, 10, 2
STATUS_KERNEL, STATUS_USER = 0, 1
STATUS, LENGTH = 8, 20  # where a block descriptor has them
RING = struct.Struct("=7I")  # tpacket_req3
FRAME = 2048  # only its product with the number of frames matters
WAIT_MS = 20  # after which a block that is not full is handed over
U32 = struct.Struct("=I")


class Ring:
    """Open while this lives. `program` is classic BPF over whole frames; `blocks` of 1 MiB hold what nobody has taken yet."""

    SIZE = 1 << 20

    def __init__(self, program: bytes, blocks: int = 32) -> None:
        self._socket = open_filtered(socket.SOCK_RAW, program)
        self._count, self._next = blocks, 0
        self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        frames = blocks * self.SIZE // FRAME
        self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, RING.pack(self.SIZE, blocks, FRAME, frames, WAIT_MS, 0, 0))
        self._memory = mmap.mmap(self._socket.fileno(), blocks * self.SIZE)
        self._hear_all()

    def _hear_all(self) -> None:
        """Bind to every interface: Python's own bind wants a name."""
        address = struct.pack("=H", socket.AF_PACKET) + struct.pack("!H", ETH_P_ALL) + bytes(16)
        if ctypes.CDLL(None, use_errno=True).bind(self._socket.fileno(), address, len(address)):
            raise Fault(f"capturing packets: bind: errno {ctypes.get_errno()}")

    def take(self, seconds: float) -> bytes | None:
        """A copy of the next block, or None where none came in that time."""
        start = self._next * self.SIZE
        if not U32.unpack_from(self._memory, start + STATUS)[0] & STATUS_USER:
            select.select([self._socket], [], [], seconds)
            if not U32.unpack_from(self._memory, start + STATUS)[0] & STATUS_USER:
                return None
        (length,) = U32.unpack_from(self._memory, start + LENGTH)
        block = self._memory[start : start + length]
        U32.pack_into(self._memory, start + STATUS, STATUS_KERNEL)
        self._next = (self._next + 1) % self._count
        return block

    def lost(self) -> int:
        """How many packets there was no room for since this was last asked."""
        return read_lost(self._socket)

    def close(self) -> None:
        """Capture no more."""
        self._memory.close()
        self._socket.close()
