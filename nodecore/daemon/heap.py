"""Keeps a process small: small TLS buffers, and what is no longer needed given back.

asyncio gives every TLS connection a zeroed buffer of 256 KiB to receive into, of which a record can fill 16, and empties it at
once each time: one buffer does for all connections of a loop. An apiserver with fifty clients would hold 12 MB of nothing else.
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
ATTRIBUTES = (
    "_app_protocol", "_app_protocol_buffer_updated", "_app_protocol_get_buffer", "_app_protocol_is_buffer",
    "_app_reading_paused", "_app_state", "_app_transport", "_app_transport_created", "_app_writing_paused", "_conn_lost",
    "_eof_received", "_extra", "_handshake_start_time", "_handshake_timeout_handle", "_incoming", "_incoming_high_water",
    "_incoming_low_water", "_loop", "_outgoing", "_outgoing_high_water", "_outgoing_low_water", "_server_hostname",
    "_server_side", "_shutdown_timeout_handle", "_ssl_buffer", "_ssl_buffer_view", "_ssl_handshake_timeout",
    "_ssl_reading_paused", "_ssl_shutdown_timeout", "_ssl_writing_paused", "_sslcontext", "_sslobj", "_state", "_transport",
    "_waiter", "_write_backlog", "_write_buffer_size",
)  # of asyncio's protocol; one of another version that is not here takes a dictionary, as it would anyway
DEFAULTS = tuple((name, getattr(sslproto.SSLProtocol, name)) for name in ATTRIBUTES if hasattr(sslproto.SSLProtocol, name))
FIRST, PERIOD = 5.0, 10.0
BUSY, SHARE = 0.2, 50  # worth a trim: so many seconds of work, and so many times what the last trim took
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ \S+ +/")
HEX_DIGITS = frozenset("0123456789abcdef")


class SmallProtocol(sslproto.SSLProtocol):
    """A TLS connection whose attributes are in slots (a dictionary of so many takes 1.2 kB more) and whose queue is a list."""

    __slots__ = ATTRIBUTES
    max_size = TLS_BUFFER
    _shared = bytearray(TLS_BUFFER)
    _view = memoryview(_shared)

    def __init__(self, *args: Any, **options: Any) -> None:
        for name, value in DEFAULTS:
            setattr(self, name, value)
        super().__init__(*args, **options)
        backlog: Any = []  # an empty deque is ten times as large
        self._write_backlog = backlog
        self._ssl_buffer, self._ssl_buffer_view = self._shared, self._view

    def get_buffer(self, size: int) -> memoryview:
        """What is received goes here, and is taken out at once."""
        return self._view

    def _write_appdata(self, parts: Iterable[Any]) -> None:
        for part in parts:
            if len(part) <= SMALL_PIECE:
                super()._write_appdata([part])
                continue
            size = SMALL_PIECE if len(part) <= FEW_PIECES else TLS_BUFFER
            left = memoryview(part)
            while left:
                piece: Any = left[:size]
                super()._write_appdata([piece])
                left = left[size:]


def stay_small() -> None:
    """Make TLS connections small ones; before any is made, in a process with one event loop."""
    loops: Any = sslproto
    loops.SSLProtocol = SmallProtocol


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
