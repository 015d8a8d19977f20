"""Keeps a process small: small TLS buffers, and what is no longer needed given back.

asyncio gives every TLS connection a zeroed buffer of 256 KiB to receive into, of which a record can fill 16, and empties it at
once each time: one buffer does for all connections of a loop. An apiserver with fifty clients holds 12 MB of nothing else.
What is sent goes through a buffer of the connection's that keeps the size of the largest piece it ever took, so pieces are small.
Program text that only ran at the start is unmapped as well (7 MB of gRPC's): it is the file's, and comes back from the page
cache when it is called. What belongs to the C library does nothing where that is not glibc.
Read next: `nodecore/daemon/metrics.py`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from asyncio import sslproto
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MADV_DONTNEED = 4
TLS_BUFFER = 16 * 1024
SMALL_PIECE, FEW_PIECES = 4 * 1024, 64 * 1024
FIRST, PERIOD = 5.0, 60.0


def stay_small() -> None:
    """Make the buffers of TLS connections small, and one of them; before any is made, in a process with one event loop."""
    protocol_class: Any = sslproto.SSLProtocol
    protocol_class.max_size = TLS_BUFFER
    shared = bytearray(TLS_BUFFER)
    view = memoryview(shared)

    def get_buffer(protocol: Any, size: int) -> memoryview:
        protocol._ssl_buffer, protocol._ssl_buffer_view = shared, view
        return view

    whole = protocol_class._write_appdata

    def write(protocol: Any, parts: Iterable[bytes]) -> None:
        for part in parts:
            size = SMALL_PIECE if len(part) <= FEW_PIECES else TLS_BUFFER
            left = memoryview(part)
            while left:
                whole(protocol, (left[:size],))
                left = left[size:]

    protocol_class.get_buffer, protocol_class._write_appdata = get_buffer, write


async def keep_small() -> None:
    """Trim soon after the start and once a minute, for ever."""
    libc = ctypes.CDLL(None)
    trim = getattr(libc, "malloc_trim", None)
    await asyncio.sleep(FIRST)
    while True:
        gc.collect()
        if trim:
            trim(0)
        drop_idle_text(libc)
        await asyncio.sleep(PERIOD)


def settle() -> None:
    """Take what is held now as held for good: collections pass over it, and what it took to come to it is given back."""
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    trim = getattr(libc, "malloc_trim", None)
    if trim:
        trim(0)
    drop_idle_text(libc)


def drop_idle_text(libc: ctypes.CDLL) -> None:
    """Unmap the pages of executable file mappings, which nobody writes to: those in use come back at their next instruction."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *_, name = line.split(maxsplit=5) if line.count("/") else ("", "", "")
        if rights == "r-xp" and name.startswith("/"):
            first, _, end = span.partition("-")
            start = int(first, 16)
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(int(end, 16) - start), MADV_DONTNEED)
