"""The last blocks of a capture that nobody has asked for yet: so many bytes, packets and seconds, and no more. Pure.

Read next: `tapping.py`, which keeps them on the node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from netscope.capture.blocks import BLOCK


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept at most; 0: no limit of this kind."""

    bytes: int = 0
    packets: int = 0
    seconds: float = 0.0


class Kept:
    """Blocks, oldest first; whole ones go when there is too much, so that the newest block is always there."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._blocks: deque[tuple[float, int, bytes]] = deque()
        self._bytes = self._packets = 0

    def add(self, block: bytes, now: float) -> None:
        """One more; others may have to go for it."""
        count, _ = BLOCK.unpack_from(block)
        self._blocks.append((now, count, block))
        self._bytes, self._packets = self._bytes + len(block), self._packets + count
        while len(self._blocks) > 1 and self._too_much(now):
            _, count, block = self._blocks.popleft()
            self._bytes, self._packets = self._bytes - len(block), self._packets - count

    def _too_much(self, now: float) -> bool:
        limits = self._limits
        return (0 < limits.bytes < self._bytes or 0 < limits.packets < self._packets
                or 0 < limits.seconds < now - self._blocks[0][0])

    def take(self) -> Iterator[bytes]:
        """All of them, which are kept no more."""
        while self._blocks:
            yield self._blocks.popleft()[2]
        self._bytes = self._packets = 0
