"""What a node writes while it captures: blocks of packets, each after its length, and news, each a JSON line after a length of 0.

    [0]{"interfaces": ...}\n  [length][block] [length][block] ... [0]{"lost": 3}\n [length][block] ... [0]{"over": true}\n

Pure. Must not know: what is in a block. Read next: `tapping.py`, which writes it; `merging.py`, which reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

LENGTH = struct.Struct("=I")
LINE = 1 << 26  # no longer than this


class Translated(msgspec.Struct, frozen=True, array_like=True):
    """A flow as connection tracking knows it: as it was sent, and as its endpoint sees it."""

    protocol: int
    source: str
    source_port: int
    target: str
    port: int
    seen_source: str
    seen_source_port: int
    endpoint: str
    endpoint_port: int


class News(msgspec.Struct, frozen=True):
    """New interfaces by number, translations not told before, how many more packets there was no room for; `over`: the last.

    `until`: all that was captured before that time (ns, the node's clock) has been told, with its translations.
    """

    interfaces: dict[int, str] = {}
    translated: tuple[Translated, ...] = ()
    lost: int = 0
    over: bool = False
    until: int = 0


class Spool:
    """One node's; what news said is whole when all blocks have been read."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.translated: list[Translated] = []
        self.lost = 0
        self.over = False
        self.until = 0
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The blocks that are whole now; half a one waits for more."""
        self._rest += data
        while len(self._rest) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._rest)
            end = LENGTH.size + length if length else self._rest.find(b"\n", LENGTH.size) + 1
            if not end or end > len(self._rest):
                return
            piece = bytes(self._rest[LENGTH.size : end])
            del self._rest[:end]
            if length:
                yield piece
            else:
                self.hear(piece)

    def read(self, file: BinaryIO) -> Iterator[bytes]:
        """The blocks of a file, one in memory at a time; one that ends in the middle of a block ends there."""
        while len(head := file.read(LENGTH.size)) == LENGTH.size:
            (length,) = LENGTH.unpack(head)
            if not length:
                self.hear(file.readline(LINE))
            elif len(block := file.read(length)) == length:
                yield block

    def scan(self, file: BinaryIO) -> None:
        """Hear all news of a file beforehand, and go back to its beginning."""
        while len(head := file.read(LENGTH.size)) == LENGTH.size:
            (length,) = LENGTH.unpack(head)
            if length:
                file.seek(length, 1)
            else:
                self.hear(file.readline(LINE))
        file.seek(0)

    def hear(self, line: bytes) -> None:
        """One piece of news."""
        try:
            news = msgspec.json.decode(line, type=News)
        except msgspec.DecodeError:  # cut off
            return
        self.names |= news.interfaces
        self.translated += news.translated
        self.lost += news.lost
        self.over |= news.over
        self.until = max(self.until, news.until)


def framed(block: bytes) -> bytes:
    """A block as it is written."""
    return LENGTH.pack(len(block)) + block


def told(news: News) -> bytes:
    """News as it is written."""
    return LENGTH.pack(0) + msgspec.json.encode(news) + b"\n"
