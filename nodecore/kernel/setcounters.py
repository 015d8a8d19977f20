"""What the counters of an nftables set's elements say.

Must not know: what is counted. Read next: `nodecore/kernel/nftdump.py`.
"""

from __future__ import annotations

import struct

from nodecore.kernel.batch import spans
from nodecore.kernel.nftdump import ELEMENT_KEY, elements
from nodecore.net import Family

ELEMENT_EXPRESSION = 7
EXPRESSION_DATA, COUNTER_BYTES, COUNTER_PACKETS = 2, 1, 2
NUMBER = struct.Struct("!Q")


def read_counters(family: Family, table: str, name: str) -> dict[bytes, tuple[int, int]]:
    """Packets and bytes by the key as the kernel has it, each of its parts padded to four bytes; raises `NotFound`."""
    found: dict[bytes, tuple[int, int]] = {}
    for data, start, end in elements(family, table, name):
        key, count = b"", (0, 0)
        for what, inner, stop in spans(data, start, end):
            if what == ELEMENT_KEY:
                key = data[inner + 4 : stop]
            elif what == ELEMENT_EXPRESSION:
                count = _counter(data, inner, stop)
        found[key] = count
    return found


def _counter(data: bytes, start: int, end: int) -> tuple[int, int]:
    numbers = {what: NUMBER.unpack_from(data, inner)[0] for part, first, last in spans(data, start, end)
               if part == EXPRESSION_DATA for what, inner, _ in spans(data, first, last)
               if what in (COUNTER_BYTES, COUNTER_PACKETS)}
    return numbers.get(COUNTER_PACKETS, 0), numbers.get(COUNTER_BYTES, 0)
