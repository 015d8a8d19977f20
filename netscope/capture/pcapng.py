"""pcapng, as Wireshark and tcpdump read it (draft-ietf-opsawg-pcapng): section, interfaces, packets with comments. Pure.

Read next: `merging.py`.
"""

from __future__ import annotations

import struct

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
ISB_DROPPED = 5
COMMENT, IF_NAME, IF_TSRESOL, EPB_FLAGS = 1, 2, 9, 2
INBOUND, OUTBOUND = 1, 2
NANOSECONDS = 9
ETHERNET, RAW_IP = 1, 101
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
SNAPLEN = 262_144


def section(application: str) -> bytes:
    """The file's head; it names who wrote it."""
    return _block(SECTION, struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1) + _option(4, application.encode()) + bytes(4))


def interface(name: str, hardware: int) -> bytes:
    """An interface, numbered by its place among them; its packets' times are in nanoseconds."""
    link = ETHERNET if hardware in (ARPHRD_ETHER, ARPHRD_LOOPBACK) else RAW_IP
    options = _option(IF_NAME, name.encode()) + _option(IF_TSRESOL, bytes([NANOSECONDS])) + bytes(4)
    return _block(INTERFACE, struct.pack("=HHI", link, 0, SNAPLEN) + options)


def packet(number: int, time: int, data: bytes, length: int, *, leaving: bool, comment: str = "") -> bytes:
    """A packet of interface `number`."""
    options = _option(COMMENT, comment.encode()) if comment else b""
    options += _option(EPB_FLAGS, struct.pack("=I", OUTBOUND if leaving else INBOUND)) + bytes(4)
    head = struct.pack("=5I", number, time >> 32, time & 0xFFFFFFFF, len(data), length)
    return _block(PACKET, head + _padded(data) + options)


def statistics(number: int, time: int, dropped: int, comment: str) -> bytes:
    """How many packets an interface's capture has lost."""
    options = _option(COMMENT, comment.encode()) + _option(ISB_DROPPED, struct.pack("=Q", dropped)) + bytes(4)
    return _block(STATISTICS, struct.pack("=III", number, time >> 32, time & 0xFFFFFFFF) + options)


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("=I", len(body) + 12)
    return struct.pack("=I", kind) + size + body + size


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
