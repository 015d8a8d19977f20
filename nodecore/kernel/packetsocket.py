"""A packet socket (packet(7)) that hears only what a filter lets by, and how many packets it had no room for.

The filter is classic BPF, so that other traffic costs a few instructions a packet and wakes nobody.

Must not know: what the filter looks for, how packets are taken. Read next: `nodecore/kernel/tap.py`, `nodecore/kernel/ring.py`.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from nodecore.errors import Denied, Fault

ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
SOL_PACKET, PACKET_STATISTICS = 263, 6


def open_filtered(kind: socket.SocketKind, program: bytes, protocol: int = 0) -> socket.socket:
    """Hears every interface at once where a protocol is given, none until it is bound where none is."""
    try:
        made = socket.socket(socket.AF_PACKET, kind | socket.SOCK_CLOEXEC, socket.htons(protocol))
    except PermissionError:
        raise Denied("listening to packets: root is needed") from None
    buffer, count = ctypes.create_string_buffer(program, len(program)), len(program) // 8
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", count, ctypes.addressof(buffer)))
    except OSError as error:
        made.close()
        raise Fault(f"packet filter of {count} instructions: {error.strerror}") from None
    return made


def read_lost(opened: socket.socket) -> int:
    """How many packets have been dropped for want of room since this was last asked."""
    _, dropped = struct.unpack("=II", opened.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return int(dropped)
