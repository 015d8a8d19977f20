"""What a node writes while it captures: a JSON line, then blocks of packets, each after its length, and a JSON line at the end.

    {"interfaces": ...}\\n  [length][block] [length][block] ...  [0]{"interfaces": ..., "lost": 3}\\n

Pure. Must not know: what is in a block. Read next: `tapping.py`, which writes it; `merging.py`, which reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

LENGTH = struct.Struct("=I")


class Opening(msgspec.Struct, frozen=True):
    """The node's interfaces, by number, when the capture begins."""

    interfaces: dict[int, str]


class Closing(msgspec.Struct, frozen=True):
    """The same at its end, and how many packets the kernel had no room for."""

    interfaces: dict[int, str]
    lost: int


class Spool:
    """One node's, read from its beginning; `names` and `lost` are whole when all blocks have been read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.names = dict(msgspec.json.decode(file.readline() or b'{"interfaces":{}}', type=Opening).interfaces)
        self.lost = 0

    def blocks(self) -> Iterator[bytes]:
        """Each in turn; a file that ends in the middle of one ends there."""
        while len(head := self._file.read(LENGTH.size)) == LENGTH.size:
            (length,) = LENGTH.unpack(head)
            if not length:
                closing = msgspec.json.decode(self._file.readline(), type=Closing)
                self.names |= closing.interfaces
                self.lost = closing.lost
                return
            if len(block := self._file.read(length)) < length:
                return
            yield block


def framed(block: bytes) -> bytes:
    """A block as it is written."""
    return LENGTH.pack(len(block)) + block
