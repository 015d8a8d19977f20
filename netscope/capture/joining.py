"""Which flow a packet belongs to, before and after translation alike, by what connection tracking said. Pure.

A flow is called by eight digits made of what it was when it was sent: `frame.comment contains "flow 1a2b3c4d"` in Wireshark shows
all of it, on every node, on both sides of the NAT, there and back. Read next: `spool.py`, `merging.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from netscope.capture.spool import Translated
from netscope.headers import Headers

Key = tuple[int, str, int, str, int]


class Flows:
    """What is known so far."""

    def __init__(self) -> None:
        self._words: dict[Key, str] = {}

    def learn(self, found: Iterable[Translated]) -> None:
        """Some more translations."""
        for each in found:
            sent = each.protocol, each.source, each.source_port, each.target, each.port
            seen = each.protocol, each.seen_source, each.seen_source_port, each.endpoint, each.endpoint_port
            name = f"flow {zlib.crc32(repr(sent).encode()):08x}"
            self._words[sent] = f"{name} before NAT"
            self._words[seen] = f"{name} after NAT"
            self._words[_turned(seen)] = f"{name} answer before NAT"
            self._words[_turned(sent)] = f"{name} answer after NAT"

    def words(self, headers: Headers) -> str:
        """The flow's name and on which side of the translation this is; empty where nothing translated it."""
        key = headers.protocol, headers.source, headers.source_port, headers.target, headers.target_port
        return self._words.get(key, "")


def _turned(key: Key) -> Key:
    protocol, source, source_port, target, port = key
    return protocol, target, port, source, source_port
