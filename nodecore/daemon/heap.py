"""Keeps a process small: small TLS buffers, and what is no longer needed given back.

asyncio gives every TLS connection a zeroed buffer of 256 KiB, of which a record can fill 16: an apiserver with fifty clients
holds 12 MB of nothing. Program text that only ran at the start is unmapped as well (7 MB of gRPC's): it is the file's, and comes
back from the page cache when it is called. What belongs to the C library does nothing where that is not glibc.
Read next: `nodecore/daemon/metrics.py`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from asyncio import sslproto
from pathlib import Path

MADV_DONTNEED = 4
TLS_BUFFER = 16 * 1024
FIRST, PERIOD = 5.0, 60.0


def stay_small() -> None:
    """Make the buffers of TLS connections small; before any is made."""
    sslproto.SSLProtocol.max_size = TLS_BUFFER


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
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def drop_idle_text(libc: ctypes.CDLL) -> None:
    """Unmap the pages of executable file mappings, which nobody writes to: those in use come back at their next instruction."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *_, name = line.split(maxsplit=5) if line.count("/") else ("", "", "")
        if rights == "r-xp" and name.startswith("/"):
            first, _, end = span.partition("-")
            start = int(first, 16)
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(int(end, 16) - start), MADV_DONTNEED)
