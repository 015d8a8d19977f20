"""`netscope capture`: a tap on every node, its blocks into a file each, and at the end one pcapng of all.

While it runs, packets pass through no Python: the kernel fills blocks, taps write them out as they are.
Read next: `netscope/capture/merging.py`; `streaming.py`, where the file is written while it runs.
"""

from __future__ import annotations

import os
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
from netscope.capture.tapping import Wish
from netscope.directory import Directory
from nodecore.errors import Unreachable

ROUNDS = 3  # of comparing clocks; the quickest counts
SECONDS_TO_END = 10.0


class Tap:
    """One node's. Ctrl-C at the terminal is not for it: it has to write what it has."""

    def __init__(self, node: str, via: str, wish: Wish, out: int | BinaryIO) -> None:
        self.node, self.ahead = node, 0
        self._heard = b""
        words = [word.replace("{node}", node) for word in shlex.split(via)]
        self._child = subprocess.Popen([*words[:-1], "tap", *_options(wish), "--", *wish.hosts], stdin=subprocess.PIPE,
                                       stdout=out, stderr=subprocess.PIPE, bufsize=0, process_group=0)

    @property
    def out(self) -> int:
        """Where its packets come, if they come here."""
        assert self._child.stdout
        return self._child.stdout.fileno()

    def compare_clocks(self) -> None:
        """Also waits until it captures; from then on its packets may come."""
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
            while line.startswith(b"fault "):
                self._heard += line
                line = self._child.stderr.readline()
            end = time.time_ns()
            if not line.strip().isdigit():
                raise self._gone(line)
            found.append((end - begin, int(line) - (begin + end) // 2))
        self.ahead = min(found)[1]
        self._child.stdin.write(b"go\n")
        os.set_blocking(self._child.stderr.fileno(), False)

    def faults(self) -> list[str]:
        """What it noticed since the last time."""
        assert self._child.stderr
        self._heard += self._child.stderr.read() or b""
        *lines, self._heard = self._heard.split(b"\n")
        return [line.decode(errors="replace").removeprefix("fault ") for line in lines if line.startswith(b"fault ")]

    def _gone(self, line: bytes) -> Unreachable:
        assert self._child.stderr
        words = (line + (self._child.stderr.read() or b"")).decode(errors="replace").strip().splitlines()
        return Unreachable(f"{self.node}: {words[-1] if words else 'its tap ended without a word'}")

    def stop(self) -> None:
        """Let it write what it has."""
        assert self._child.stdin
        self._child.stdin.close()

    def end(self) -> None:
        """The same, and wait until it has."""
        self.stop()
        try:
            self._child.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _options(wish: Wish) -> list[str]:
    found = ["--live"] * wish.live + ["--resets"] * wish.resets
    found += ["--protocol", wish.protocol] * bool(wish.protocol)
    found += [word for port in wish.ports for word in ("--port", str(port))]
    if limits := wish.limits:
        found += ["--ring", f"{limits.bytes},{limits.packets},{limits.seconds}"]
    return found + [word for url in wish.metrics for word in ("--metrics", url)]


def record(directory: Directory, via: str, wish: Wish, wait: Callable[[Sequence[Tap]], None], out: BinaryIO) -> int:
    """Capture until `wait`, which is called when every node is ready, returns; write the file; say how many packets were lost."""
    with tempfile.TemporaryDirectory(prefix="netscope-") as scratch, ExitStack() as stack:
        files = [(node, Path(scratch) / str(number)) for number, node in enumerate(directory.nodes)]
        taps = []
        for node, path in files:
            with path.open("wb") as spooled:
                taps.append(Tap(node, via, wish, spooled))
            stack.callback(taps[-1].end)
        for tap in taps:
            tap.compare_clocks()
        wait(taps)
        for tap in taps:
            tap.stop()
        for tap in taps:
            tap.end()
        pairs = []
        for tap, (node, path) in zip(taps, files, strict=True):
            spool, file = Spool(), stack.enter_context(path.open("rb"))
            spool.scan(file)
            if not spool.over:
                raise Unreachable(f"{node}: its tap ended before it had told all")
            pairs.append((Source(node, spool, tap.ahead), Spool().read(file)))
        for piece in merge(pairs, directory):
            out.write(piece)
        return sum(source.spool.lost for source, _ in pairs)
