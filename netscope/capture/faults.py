"""Faults that a node notices while it captures, told on stderr as they come: `fault rst 10.1.0.2:80 to 10.2.0.2:40000`.

A connection that was reset is a packet of its own filter, so others cost nothing; a sync that failed is a counter of an agent on
this node that has grown (`.../metrics`: every `*sync*failures_total`, ours and the Go programs').

Read next: `tapping.py`; `freezing.py`, which decides what a fault is for.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Sequence

from netscope.headers import read
from nodecore.kernel.tap import Tap

FAILURES = re.compile(r"^\w*(?:sync|restore)\w*_failures_total(?:\{[^}]*\})? (\S+)", re.MULTILINE)
PAUSE, PATIENCE = 0.5, 2.0


class Watch:
    """Looks while this lives; `resets` is the program of the packets that are told, where any are."""

    def __init__(self, resets: bytes | None, metrics: Sequence[str]) -> None:
        self._tap = Tap(resets) if resets else None
        for url in metrics:
            threading.Thread(target=_watch_metrics, args=(url,), daemon=True).start()

    def look(self) -> None:
        """Tell what came since the last time."""
        for frame in self._tap.read() if self._tap else ():
            if headers := read(frame.data):
                _tell(f"rst {headers.source}:{headers.source_port} to {headers.target}:{headers.target_port}")


def failures(text: str) -> float:
    """All failures that a page of metrics counts."""
    return sum(map(float, FAILURES.findall(text)))


def _watch_metrics(url: str) -> None:
    from urllib.error import URLError
    from urllib.request import urlopen

    before: float | None = None
    while True:
        try:
            with urlopen(url, timeout=PATIENCE) as page:
                now = failures(page.read().decode(errors="replace"))
        except (URLError, OSError):  # nobody there, or not yet
            now = before or 0.0
        if before is not None and now > before:
            _tell(f"sync failure {url} counts {now - before:g} more")
        before = now
        time.sleep(PAUSE)


def _tell(words: str) -> None:
    os.write(2, f"fault {words}\n".encode())
