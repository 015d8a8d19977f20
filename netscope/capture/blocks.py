"""The packets in a block of the kernel's ring (linux/if_packet.h: tpacket_block_desc, tpacket3_hdr): pure.

Read next: `nodecore/kernel/ring.py`, where blocks come from; `merging.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = struct.Struct("=12xII")  # packets, and the place of the first
PACKET = struct.Struct("=6IHH")  # next, seconds, nanoseconds, captured, length, status, place of the frame, and of its IP header
SENDER = struct.Struct("=2x2xIHB")  # sockaddr_ll: interface, hardware type, packet type
SENDER_AT = 48
OUTGOING = 4
SECOND = 1_000_000_000


class Packet(NamedTuple):
    """One frame: when (ns since 1970), on which interface (number, hardware type), whether it left, and its bytes.

    `network` is where its IP header begins; `length` what it had on the wire.
    """

    time: int
    interface: int
    hardware: int
    leaving: bool
    network: int
    length: int
    data: bytes


def packets(block: bytes) -> Iterator[Packet]:
    """Each, in the order they came."""
    count, place = BLOCK.unpack_from(block)
    for _ in range(count):
        step, seconds, nanoseconds, captured, length, _, frame, network = PACKET.unpack_from(block, place)
        interface, hardware, kind = SENDER.unpack_from(block, place + SENDER_AT)
        begin = place + frame
        yield Packet(seconds * SECOND + nanoseconds, interface, hardware, kind == OUTGOING, network - frame, length,
                     block[begin : begin + captured])
        place += step
