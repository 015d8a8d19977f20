"""The files of a capture that is written while it runs: one, or one after the other (`all-00001.pcapng` ...), the oldest deleted.

Read next: `streaming.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from netscope.capture.blocks import Packet
from netscope.capture.merging import Source, Writer

STDOUT = "-"


@dataclass(frozen=True, slots=True)
class Rotation:
    """When another file is begun, and how many are kept; 0: never, all."""

    bytes: int = 0
    seconds: float = 0.0
    keep: int = 0

    @property
    def rotates(self) -> bool:
        """Whether there can be more than one."""
        return bool(self.bytes or self.seconds)


class Files:
    """Opened when the first packet comes, or at the end."""

    def __init__(self, path: str, rotation: Rotation) -> None:
        self._path, self._rotation = path, rotation
        self._made: list[Path] = []
        self._file: BinaryIO | None = None
        self._number = self._size = 0
        self._begin = 0.0

    def writers(self, make: Callable[[], Writer], sources: Sequence[Source]) -> None:
        """Each file gets a writer of its own."""
        self._make, self._sources = make, sources
        if not self._rotation.rotates:
            self._next()

    def packet(self, when: int, source: Source, packet: Packet) -> None:
        """One more, in this file or the next."""
        if self._file is None or self._is_full():
            self._next()
        self._put(self._writer.packet(when, source, packet))

    def flush(self) -> None:
        """Whoever reads along sees it now."""
        if self._file:
            self._file.flush()

    def close(self) -> None:
        """The end of the last one."""
        if self._file is None:
            self._next()
        self._end()

    def _is_full(self) -> bool:
        rotation = self._rotation
        return 0 < rotation.bytes <= self._size or 0 < rotation.seconds <= time.monotonic() - self._begin

    def _next(self) -> None:
        self._end()
        self._number, self._size, self._begin = self._number + 1, 0, time.monotonic()
        self._file = self._open()
        self._writer = self._make()
        self._put(self._writer.head())

    def _open(self) -> BinaryIO:
        if self._path == STDOUT:
            return sys.stdout.buffer
        path = Path(self._path)
        if self._rotation.rotates:
            path = path.with_stem(f"{path.stem}-{self._number:05}")
        self._made.append(path)
        while 0 < self._rotation.keep < len(self._made):
            self._made.pop(0).unlink(missing_ok=True)
        return path.open("wb")

    def _put(self, piece: bytes) -> None:
        assert self._file
        self._file.write(piece)
        self._size += len(piece)

    def _end(self) -> None:
        if self._file is None:
            return
        for piece in self._writer.tail(self._sources):
            self._put(piece)
        self._file.flush()
        if self._path != STDOUT:
            self._file.close()
        self._file = None
