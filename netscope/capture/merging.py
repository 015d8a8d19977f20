"""Many nodes' packets in the order of time, by one clock, as one pcapng; every packet says whose it is.

A packet's comment names both ends and bears its stamp (TCP sequence number or IP identification, which translation and tunnels
leave alone): `frame.comment contains "tcp 1a2b3c4d"` in Wireshark shows all sights of one packet, on every node.

Pure. Must not know: files. Read next: `spool.py`, `pcapng.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from netscope.capture import pcapng
from netscope.capture.blocks import Packet, packets
from netscope.directory import Directory
from netscope.flow import NAMES
from netscope.headers import read

WINDOW = 4096  # packets of one node come almost in order: as many are held back to put them right
HEADERS = 256  # bytes that are looked at, enough for all headers of a packet in a tunnel


class Source(NamedTuple):
    """One node's blocks, its interfaces' names by number (filled while blocks are read), and how far its clock is ahead (ns)."""

    node: str
    blocks: Iterable[bytes]
    names: Mapping[int, str]
    ahead: int


def merge(sources: Iterable[Source], directory: Directory) -> Iterator[bytes]:
    """The pieces of the file."""
    yield pcapng.section("netscope")
    numbers: dict[tuple[str, int], int] = {}
    streams = [_in_order(source) for source in sources]
    for time, _, source, packet in heapq.merge(*streams, key=lambda each: each[0]):
        place = source.node, packet.interface
        if place not in numbers:
            numbers[place] = len(numbers)
            name = source.names.get(packet.interface, f"#{packet.interface}")
            yield pcapng.interface(f"{source.node}/{name}", packet.hardware)
        comment = _comment(packet, directory)
        yield pcapng.packet(numbers[place], time, packet.data, packet.length, leaving=packet.leaving, comment=comment)


def _in_order(source: Source) -> Iterator[tuple[int, int, Source, Packet]]:
    """By time of the common clock."""
    waiting: list[tuple[int, int, Source, Packet]] = []
    count = 0
    for block in source.blocks:
        for packet in packets(block):
            count += 1
            heapq.heappush(waiting, (packet.time - source.ahead, count, source, packet))
            if len(waiting) > WINDOW:
                yield heapq.heappop(waiting)
    while waiting:
        yield heapq.heappop(waiting)


def _comment(packet: Packet, directory: Directory) -> str:
    headers = read(packet.data[packet.network : packet.network + HEADERS])
    if headers is None:
        return ""
    ends = [directory.name_of(address) or address for address in (headers.source, headers.target)]
    return f"{ends[0]} to {ends[1]}, {NAMES[headers.protocol]} {headers.stamp:08x}"
