"""The packets in a block of the kernel's ring (linux/if_packet.h: tpacket_block_desc, tpacket3_hdr): pure.

A VLAN's tag, which the kernel keeps beside the frame, is put back where it is on the wire; of what a node sends to itself, which
the loopback interface shows leaving and coming, the coming is kept.

Read next: `nodecore/kernel/ring.py`, where blocks come from; `merging.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = struct.Struct("=12xII")  # packets, and the place of the first
PACKET = struct.Struct("=6IHH4xIH")  # next, seconds, ns, captured, length, status, places of frame and IP header, VLAN, its kind
NEWEST = struct.Struct("=40xII")
SENDER = struct.Struct("=2x2xIHB")  # sockaddr_ll: interface, hardware type, packet type
SENDER_AT = 48
TAG = struct.Struct("!HH")
OUTGOING, LOOPBACK = 4, 772
TAGGED, TAG_NAMED = 1 << 4, 1 << 6  # status: there is a VLAN's tag, of a kind that is named
VLAN, MACS = 0x8100, 12
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


def newest(block: bytes) -> int:
    """When the last packet of a block came (ns since 1970)."""
    seconds, nanoseconds = NEWEST.unpack_from(block)
    return int(seconds * SECOND + nanoseconds)


def packets(block: bytes) -> Iterator[Packet]:
    """Each, in the order they came."""
    count, place = BLOCK.unpack_from(block)
    for _ in range(count):
        step, seconds, nanoseconds, captured, length, status, frame, network, vlan, named = PACKET.unpack_from(block, place)
        interface, hardware, kind = SENDER.unpack_from(block, place + SENDER_AT)
        begin = place + frame
        data, head = block[begin : begin + captured], network - frame
        if status & TAGGED:
            tag = TAG.pack(named if status & TAG_NAMED else VLAN, vlan)
            data, head, length = data[:MACS] + tag + data[MACS:], head + TAG.size, length + TAG.size
        if hardware != LOOPBACK or kind != OUTGOING:
            yield Packet(seconds * SECOND + nanoseconds, interface, hardware, kind == OUTGOING, head, length, data)
        place += step
