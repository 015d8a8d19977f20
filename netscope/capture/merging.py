"""Many nodes' packets in the order of time, by one clock, as one pcapng; every packet says whose it is.

A packet's comment names both ends and bears its stamp (TCP sequence number, IP identification, or a sum of a datagram's payload,
which translation and tunnels leave alone): `frame.comment contains "tcp 1a2b3c4d"` in Wireshark shows all sights of one packet,
on every node. Where it was translated, the flow is named as well (`joining.py`). What a node had no room for is written into the
file at its end.

Pure. Must not know: files. Read next: `spool.py`, `pcapng.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from netscope.capture import pcapng
from netscope.capture.blocks import Packet, packets
from netscope.capture.joining import Flows
from netscope.capture.spool import Spool
from netscope.capture.tally import Tally
from netscope.directory import Directory
from netscope.flow import NAMES
from netscope.headers import read

WINDOW = 4096  # packets of one node come almost in order: as many are held back to put them right
HEADERS = 256  # bytes that are looked at, enough for all headers of a packet in a tunnel


class Source(NamedTuple):
    """One node: what it has told, and how far its clock is ahead (ns)."""

    node: str
    spool: Spool
    ahead: int


Waiting = tuple[int, int, Source, Packet]  # by time of the common clock; the second number tells equals apart


class Writer:
    """One pcapng file, piece by piece."""

    def __init__(self, directory: Directory, flows: Flows, tally: Tally) -> None:
        self._directory, self._flows, self._tally = directory, flows, tally
        self._numbers: dict[tuple[str, int], int] = {}
        self._names: dict[str, str] = {}
        self._last = 0

    def head(self) -> bytes:
        """The file's beginning."""
        return pcapng.section("netscope")

    def packet(self, time: int, source: Source, packet: Packet) -> bytes:
        """One packet, with its interface before it where it is the first there."""
        piece, place = b"", (source.node, packet.interface)
        if place not in self._numbers:
            self._numbers[place] = len(self._numbers)
            name = source.spool.names.get(packet.interface, f"#{packet.interface}")
            piece = pcapng.interface(f"{source.node}/{name}", packet.hardware)
        self._last = max(self._last, time)
        self._tally.packets, self._tally.octets = self._tally.packets + 1, self._tally.octets + len(packet.data)
        return piece + pcapng.packet(self._numbers[place], time, packet.data, packet.length, leaving=packet.leaving,
                                     comment=self._comment(packet))

    def tail(self, sources: Iterable[Source]) -> Iterator[bytes]:
        """What each node had no room for, at the first of its interfaces."""
        for source in sources:
            number = next((number for (node, _), number in self._numbers.items() if node == source.node), None)
            if number is not None:
                yield pcapng.statistics(number, self._last, source.spool.lost, f"{source.node}: {source.spool.lost} lost")

    def _comment(self, packet: Packet) -> str:
        headers = read(packet.data[packet.network : packet.network + HEADERS], by_payload=True)
        if headers is None:
            return ""
        ends = [self._name(address) for address in (headers.source, headers.target)]
        text = f"{ends[0]} to {ends[1]}, {NAMES[headers.protocol]} {headers.stamp:08x}"
        flow = self._flows.words(headers)
        return f"{text}, {flow}" if flow else text

    def _name(self, address: str) -> str:
        if address not in self._names:
            self._names[address] = self._directory.name_of(address) or address
        return self._names[address]


def merge(sources: Iterable[tuple[Source, Iterable[bytes]]], directory: Directory, tally: Tally) -> Iterator[bytes]:
    """The pieces of the file; the nodes' news must have been heard."""
    pairs, flows = list(sources), Flows()
    for source, _ in pairs:
        flows.learn(source.spool.translated)
    writer = Writer(directory, flows, tally)
    yield writer.head()
    streams = [_in_order(source, blocks) for source, blocks in pairs]
    for time, _, source, packet in heapq.merge(*streams, key=lambda each: each[0]):
        yield writer.packet(time, source, packet)
    yield from writer.tail(source for source, _ in pairs)


def _in_order(source: Source, blocks: Iterable[bytes]) -> Iterator[Waiting]:
    """By time of the common clock."""
    waiting: list[Waiting] = []
    count = 0
    for block in blocks:
        for packet in packets(block):
            count += 1
            heapq.heappush(waiting, (packet.time - source.ahead, count, source, packet))
            if len(waiting) > WINDOW:
                yield heapq.heappop(waiting)
    while waiting:
        yield heapq.heappop(waiting)
