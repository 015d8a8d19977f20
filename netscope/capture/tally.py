"""What a capture comes to: packets written, and those there was no room for, which are never kept quiet. Pure.

Read next: `command.py`, which tells it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counted while it goes on; `over` when the file has all there is."""

    packets: int = 0
    octets: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    over: bool = False

    def __str__(self) -> str:
        said = f"{self.packets:,} packets, {self.octets:,} bytes"
        lost = [f"{number:,} on {node}" for node, number in self.lost.items() if number]
        return f"{said}; {' and '.join(lost)} came too fast and are missing" if lost else f"{said}; nothing was lost"

    def grew(self, lost: dict[str, int]) -> list[str]:
        """Words for each node that has lost more than was known."""
        grown = {node: number for node, number in lost.items() if number > self.lost.get(node, 0)}
        words = [f"{node}: {number - self.lost.get(node, 0):,} packets came too fast and are missing"
                 for node, number in grown.items()]
        self.lost |= lost
        return words
