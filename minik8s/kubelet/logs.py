"""Streams a container's log file, from anywhere in it and on as it grows, across rotations.

Read next: `minik8s/kubelet/log_lines.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from nodecore.errors import NotFound

from .log_lines import LogOptions, Renderer, last_lines

FOLLOW_PAUSE = 0.2
CHUNK = 256 * 1024


async def stream_log(path: Path, options: LogOptions, running: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The wanted part of a log in pieces; with `follow` until the container has ended and all is read."""
    renderer = Renderer(options)
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFound(f"log file {path.name}: {error.strerror}") from None
    try:
        if options.tail_lines is not None:
            yield b"".join(renderer.render(line) for line in _tail(file, options.tail_lines))
        while not renderer.full:
            alive = running()
            chunk = _read(file, renderer)
            if chunk:
                yield chunk
            elif _rotated(file, path):
                rest = _read(file, renderer)  # the runtime wrote here until it opened the new file
                if rest:
                    yield rest
                else:
                    file.close()
                    file = path.open("rb")
            elif not options.follow or not alive:
                return
            else:
                await asyncio.sleep(FOLLOW_PAUSE)
    finally:
        file.close()


def _tail(file: BinaryIO, count: int) -> list[bytes]:
    """The last lines, read from the end in growing steps; leaves the file at the end of what was read."""
    end = os.fstat(file.fileno()).st_size
    start = end
    while True:
        start = max(0, start - max(CHUNK, end - start))
        file.seek(start)
        block = file.read(end - start)
        whole = block[: block.rfind(b"\n") + 1]
        lines = whole.splitlines(keepends=True)
        if start:
            lines = lines[1:]
        chosen = last_lines(iter(lines), count)
        if start == 0 or (len(chosen) < len(lines) and len(chosen) >= count):
            file.seek(start + len(whole))
            return chosen


def _read(file: BinaryIO, renderer: Renderer) -> bytes:
    """Whole records from here on, at most about CHUNK bytes."""
    start = file.tell()
    block = file.read(CHUNK)
    end = block.rfind(b"\n") + 1
    file.seek(start + end)
    if not end:
        return b""
    rendered = b"".join(renderer.render(line) for line in block[:end].splitlines(keepends=True))
    return rendered or _read(file, renderer)


def _rotated(file: BinaryIO, path: Path) -> bool:
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except OSError:
        return False
