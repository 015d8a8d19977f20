"""Keeps a process small: small TLS buffers, and what is no longer needed given back.

asyncio gives every TLS connection a zeroed buffer of 256 KiB to receive into, of which a record can fill 16, and empties it at
once each time: one buffer does for all connections of a loop. An apiserver with fifty clients holds 12 MB of nothing else.
What is sent goes through a buffer of the connection's that keeps the size of the largest piece it ever took, so pieces are small.
Program text and constants that only served at the start are unmapped as well (OpenSSL's and others): they are the
files', and come back from the page cache when they are touched. What belongs to the C library is for glibc alone.
Read next: `nodecore/daemon/metrics.py`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import re
import time
from asyncio import sslproto
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MADV_DONTNEED = 4
TLS_BUFFER = 16 * 1024
SMALL_PIECE, FEW_PIECES = 4 * 1024, 64 * 1024
FIRST, PERIOD = 5.0, 10.0
BUSY, SHARE = 0.2, 50  # worth a trim: so many seconds of work, and so many times what the last trim took
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ \S+ +/")
HEX_DIGITS = frozenset("0123456789abcdef")


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
            if len(part) <= SMALL_PIECE:
                whole(protocol, (part,))
                continue
            size = SMALL_PIECE if len(part) <= FEW_PIECES else TLS_BUFFER
            left = memoryview(part)
            while left:
                whole(protocol, (left[:size],))
                left = left[size:]

    protocol_class.get_buffer, protocol_class._write_appdata = get_buffer, write


async def keep_small() -> None:
    """Trim soon after the start, and from then on soon after work: who does nothing has nothing to give back."""
    libc = ctypes.CDLL(None)
    trim = getattr(libc, "malloc_trim", None)
    await asyncio.sleep(FIRST)
    while True:
        began = time.process_time()
        gc.collect()
        if trim:
            trim(0)
        drop_idle_text(libc)
        await _work_done(max(BUSY, SHARE * (time.process_time() - began)))


async def _work_done(seconds: float) -> None:
    """Wait until the process has worked for so many seconds more."""
    end = time.process_time() + seconds
    while True:
        await asyncio.sleep(PERIOD)
        if time.process_time() >= end:
            return


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
    """Unmap the clean pages of program text and constants: those in use come back from the page cache when they are touched."""
    for start, end in _clean_mappings(Path("/proc/self/smaps").read_text()):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)


def _clean_mappings(smaps: str) -> Iterator[tuple[int, int]]:
    """Mappings of files that nobody may write to, and of which no page has been written to (relocated) either."""
    span = None
    for line in smaps.splitlines():
        if found := MAPPING.match(line):
            span = int(found[1], 16), int(found[2], 16)
        elif line[:1] in HEX_DIGITS and "-" in line.partition(" ")[0]:
            span = None
        elif span and line.startswith("Anonymous:") and line.split()[1] == "0":
            yield span
