"""CRI log files: `<time> <stdout|stderr> <P|F> <text>`, where P pieces join into one line. Pure.

Read next: `minik8s/kubelet/logs.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .times import seconds_of


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Which part of a log is wanted (core/v1 PodLogOptions)."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: float = 0.0
    stream: str = "All"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the file."""

    stamp: str
    stream: str
    whole: bool
    text: bytes


def parse_entry(line: bytes) -> Entry | None:
    """Read one record (with its newline); None for what is not one."""
    parts = line.rstrip(b"\n").split(b" ", 3)
    if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr"):
        return None
    text = parts[3] if len(parts) > 3 else b""
    return Entry(parts[0].decode("ascii", "replace"), parts[1].decode(), not parts[2].startswith(b"P"), text)


class Renderer:
    """Turns records into what the reader sees; remembers whether it is inside a line, and how much it may still say."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._inside: dict[str, bool] = {}
        self._left = options.limit_bytes

    @property
    def full(self) -> bool:
        """Whether `limitBytes` is used up."""
        return self._left is not None and self._left <= 0

    def render(self, line: bytes) -> bytes:
        """The visible bytes of one record; empty when it is filtered out."""
        entry = parse_entry(line)
        if entry is None or self._options.stream not in ("All", entry.stream.title()):
            return b""
        if self._options.since and seconds_of(entry.stamp) < self._options.since:
            return b""
        inside = self._inside.get(entry.stream, False)
        self._inside[entry.stream] = not entry.whole
        head = f"{entry.stamp} ".encode() if self._options.timestamps and not inside else b""
        text = head + entry.text + (b"\n" if entry.whole else b"")
        if self._left is not None:
            text = text[: max(0, self._left)]
            self._left -= len(text)
        return text


def last_lines(lines: Iterator[bytes], count: int) -> list[bytes]:
    """The records of the last `count` whole lines."""
    kept: list[list[bytes]] = []
    open_line: list[bytes] = []
    for line in lines:
        open_line.append(line)
        entry = parse_entry(line)
        if entry is None or entry.whole:
            kept.append(open_line)
            open_line = []
            if len(kept) > count:
                kept.pop(0)
    if open_line:
        kept.append(open_line)
    return [line for group in kept[-count:] for line in group] if count else []
