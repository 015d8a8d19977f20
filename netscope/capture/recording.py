"""`netscope capture`: a tap on every node, its blocks into a file each, and at the end one pcapng of all.

While it runs, packets pass through no Python: the kernel fills blocks, taps write them out as they are.
Read next: `netscope/capture/merging.py`.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from netscope.capture.merging import Source, merge
from netscope.capture.spool import Spool
from netscope.directory import Directory
from nodecore.errors import Unreachable

ROUNDS = 3  # of comparing clocks; the quickest counts
SECONDS_TO_END = 10.0


class Tap:
    """One node's."""

    def __init__(self, node: str, via: str, hosts: Sequence[str], spool: Path) -> None:
        self.node, self.spool, self.ahead = node, spool, 0
        words = [word.replace("{node}", node) for word in shlex.split(via)]
        with spool.open("wb") as file:
            self._child = subprocess.Popen(
                [*words[:-1], "tap", *hosts], stdin=subprocess.PIPE, stdout=file, stderr=subprocess.PIPE, bufsize=0)

    def compare_clocks(self) -> None:
        """Also waits until it captures."""
        assert self._child.stdin
        assert self._child.stderr
        found = []
        for _ in range(ROUNDS):
            begin = time.time_ns()
            try:
                self._child.stdin.write(b"time\n")
            except BrokenPipeError:
                raise self._gone(b"") from None
            line = self._child.stderr.readline()
            end = time.time_ns()
            if not line.strip().isdigit():
                raise self._gone(line)
            found.append((end - begin, int(line) - (begin + end) // 2))
        self.ahead = min(found)[1]

    def _gone(self, line: bytes) -> Unreachable:
        assert self._child.stderr
        words = (line + self._child.stderr.read()).decode(errors="replace").strip().splitlines()
        return Unreachable(f"{self.node}: {words[-1] if words else 'its tap ended without a word'}")

    def end(self) -> None:
        """Let it write what it has, and close."""
        assert self._child.stdin
        self._child.stdin.close()
        try:
            self._child.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def record(directory: Directory, via: str, hosts: Sequence[str], wait: Callable[[], None], out: BinaryIO) -> int:
    """Capture until `wait`, which is called when every node is ready, returns; write the file; say how many packets were lost."""
    with tempfile.TemporaryDirectory(prefix="netscope-") as scratch, ExitStack() as stack:
        taps = []
        for number, node in enumerate(directory.nodes):
            taps.append(Tap(node, via, hosts, Path(scratch) / str(number)))
            stack.callback(taps[-1].end)
        for tap in taps:
            tap.compare_clocks()
        wait()
        for tap in taps:
            tap.end()
        spools = [(tap, Spool(stack.enter_context(tap.spool.open("rb")))) for tap in taps]
        for piece in merge([Source(tap.node, spool.blocks(), spool.names, tap.ahead) for tap, spool in spools], directory):
            out.write(piece)
        return sum(spool.lost for _, spool in spools)
