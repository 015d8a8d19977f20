"""The probes that no socket of the kernel sends by itself: an ICMP echo, and the first packet of an SCTP association. Pure.

Read next: `netscope/probe.py`, which sends them; RFC 792, 4443, 9260.
"""

from __future__ import annotations

import struct

from netscope.flow import ICMP, SCTP
from nodecore.net import Family

INIT, INIT_ACK, ABORT = 1, 2, 6
WINDOW, STREAMS = 65536, 1
CASTAGNOLI = 0x82F63B78


def echo(family: Family, mark: int) -> bytes:
    """A request whose identifier and number are the mark."""
    kind = 8 if family is Family.IPV4 else 128
    body = struct.pack("!HH", mark, mark) + b"netscope"
    return struct.pack("!BBH", kind, 0, _internet_checksum(bytes([kind, 0, 0, 0]) + body)) + body


def init(source_port: int, port: int, tag: int) -> bytes:
    """What asks for an association."""
    chunk = struct.pack("!BBHIIHHI", INIT, 0, 20, tag, WINDOW, STREAMS, STREAMS, tag)
    head = struct.pack("!HHI", source_port, port, 0)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def answer_to(family: Family, protocol: int, mark: int, packet: bytes) -> str:
    """What a packet says to a probe: `answered`, `refused`, or nothing, when it is none of ours. IPv4 comes with its header."""
    rest = packet[(packet[0] & 15) * 4 :] if family is Family.IPV4 else packet
    if protocol == ICMP:
        reply = 0 if family is Family.IPV4 else 129
        return "answered" if len(rest) >= 8 and rest[0] == reply and struct.unpack_from("!H", rest, 6)[0] == mark else ""
    if protocol != SCTP or len(rest) < 13 or struct.unpack_from("!H", rest, 2)[0] != mark:
        return ""
    return {INIT_ACK: "answered", ABORT: "refused"}.get(rest[12], "")


def crc32c(data: bytes) -> int:
    """SCTP's checksum."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CASTAGNOLI if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _internet_checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return total ^ 0xFFFF
