"""`netscope capture --live`: the file is written while packets come, and another one begun when it is large or old enough.

Packets wait until every node has said that it has told all that came before them, translations included: some tenths of a second.
A node that says nothing for ten seconds is waited for no more.
Read next: `merging.py`, `files.py`.
"""

from __future__ import annotations

import heapq
import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import click
import msgspec

from netscope.capture.blocks import packets
from netscope.capture.files import Files
from netscope.capture.joining import Flows
from netscope.capture.merging import Source, Waiting, Writer
from netscope.capture.recording import Tap
from netscope.capture.spool import Spool
from netscope.capture.tally import Tally
from netscope.capture.tapping import Wish
from netscope.directory import Directory
from nodecore.errors import Unreachable

PATIENCE = 10_000_000_000  # ns that a silent node is waited for
PAUSE = 0.1
PIPE = 1 << 20


def stream(directory: Directory, nodes: Sequence[str], via: str, wish: Wish, seconds: float, files: Files, tally: Tally,
           begun: Callable[[], None] = lambda: None) -> None:
    """Capture for so long, or until Ctrl-C or nobody reads any more; losses are told as they are known."""
    with ExitStack() as stack:
        taps = []
        for node in nodes:
            taps.append(Tap(node, via, msgspec.structs.replace(wish, live=True), subprocess.PIPE))
            stack.callback(taps[-1].end)
        for tap in taps:
            tap.compare_clocks()
        work = _Stream(taps, directory, files, tally)
        with suppress(KeyboardInterrupt, BrokenPipeError):
            begun()
            work.run(time.monotonic() + seconds)
        for tap in taps:
            tap.stop()
        work.finish()
        tally.over = True
        if gone := [words for tap in taps if (words := tap.end())]:
            raise Unreachable("; ".join(gone))


class _Stream:
    def __init__(self, taps: list[Tap], directory: Directory, files: Files, tally: Tally) -> None:
        self._sources = {tap.out: Source(tap.node, Spool(), tap.ahead) for tap in taps}
        self._open = set(self._sources)
        self._heap: list[Waiting] = []
        self._count = 0
        self._flows = Flows()
        self._files = files
        self._tally, self._ending = tally, False
        files.writers(lambda: Writer(directory, self._flows, tally), [*self._sources.values()])

    def _tell_lost(self) -> None:
        for words in self._tally.grew({source.node: source.spool.lost for source in self._sources.values()}):
            click.echo(words, err=True)

    def run(self, deadline: float) -> None:
        while self._open and time.monotonic() < deadline:
            self._read()
            self._tell_lost()
            self._write(self._complete())

    def _complete(self) -> int:
        """Every node has told all that came before that time."""
        latest = time.time_ns() - PATIENCE
        known = (source.spool.until - source.ahead for fd, source in self._sources.items() if fd in self._open)
        return max(min(known, default=latest), latest)

    def finish(self) -> None:
        """What is still on its way."""
        self._ending = True
        while self._open:
            self._read()
        self._tell_lost()
        try:
            self._write(None)
            self._files.close()
        except BrokenPipeError:
            pass

    def _read(self) -> None:
        ready, _, _ = select.select(list(self._open), [], [], PAUSE)
        for fd in ready:
            source = self._sources[fd]
            data = os.read(fd, PIPE)
            if not data:
                self._open.discard(fd)
                if not self._ending:
                    click.echo(f"{source.node}: no more comes from there", err=True)
            known = len(source.spool.translated)
            blocks = list(source.spool.feed(data))
            self._flows.learn(source.spool.translated[known:])
            for block in blocks:
                for packet in packets(block):
                    self._count += 1
                    heapq.heappush(self._heap, (packet.time - source.ahead, self._count, source, packet))

    def _write(self, until: int | None) -> None:
        """What is older than that; everything at the end."""
        while self._heap and (until is None or self._heap[0][0] < until):
            when, _, source, packet = heapq.heappop(self._heap)
            self._files.packet(when, source, packet)
        self._files.flush()
