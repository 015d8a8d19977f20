"""`netscope capture`: a tap on every node, its blocks into a file each, and at the end one pcapng of all.

While it runs, packets pass through no Python: the kernel fills blocks, taps write them out as they are.
Read next: `netscope/capture/merging.py`; `streaming.py`, where the file is written while it runs.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec

from netscope import clocks
from netscope.capture.merging import Source, merge
from netscope.capture.spool import Spool
from netscope.capture.tally import Tally
from netscope.capture.tapping import Wish
from netscope.directory import Directory
from netscope.door import words_of
from nodecore.errors import Unreachable, UserError

ROUNDS = 10  # of comparing clocks; the quickest counts
SECONDS_TO_END = 10.0


class Tap:
    """One node's. Ctrl-C at the terminal is not for it: it has to write what it has."""

    def __init__(self, node: str, via: str, wish: Wish, out: int | BinaryIO) -> None:
        self.node, self.ahead = node, 0
        self._heard = b""
        try:
            self._child = subprocess.Popen(words_of(via, node, "tap"), stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE,
                                           bufsize=0, process_group=0)
        except OSError as error:
            raise UserError(f"--via: {via!r} cannot be started: {error.strerror}") from None
        self._say(msgspec.json.encode(wish) + b"\n")

    @property
    def out(self) -> int:
        """Where its packets come, if they come here."""
        assert self._child.stdout
        return self._child.stdout.fileno()

    def compare_clocks(self) -> None:
        """Also waits until it captures; from then on its packets may come."""
        assert self._child.stderr
        found = []
        for _ in range(ROUNDS):
            begin = time.time_ns()
            self._say(b"time\n")
            line = self._child.stderr.readline()
            while line.startswith(b"fault "):
                self._heard += line
                line = self._child.stderr.readline()
            end = time.time_ns()
            if not line.strip().isdigit():
                raise self._gone(line)
            found.append((begin, int(line), end))
        self.ahead = clocks.ahead(found)
        self._say(b"go\n")
        os.set_blocking(self._child.stderr.fileno(), False)

    def _say(self, words: bytes) -> None:
        assert self._child.stdin
        try:
            while words:
                words = words[self._child.stdin.write(words) or 0 :]
        except BrokenPipeError:
            raise self._gone(b"") from None

    def faults(self) -> list[str]:
        """What it noticed since the last time."""
        assert self._child.stderr
        self._heard += self._child.stderr.read() or b""
        *lines, self._heard = self._heard.split(b"\n")
        return [line.decode(errors="replace").removeprefix("fault ") for line in lines if line.startswith(b"fault ")]

    def _gone(self, line: bytes) -> Unreachable:
        assert self._child.stderr
        words = (line + (self._child.stderr.read() or b"")).decode(errors="replace").strip().splitlines()
        last = words[-1].removeprefix("netscope: ") if words else "its tap ended without a word"
        return Unreachable(f"{self.node}: {last}")

    def stop(self) -> None:
        """Let it write what it has."""
        assert self._child.stdin
        self._child.stdin.close()

    def end(self) -> str:
        """The same, and wait until it has; its last words where it failed."""
        self.stop()
        try:
            failed = self._child.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._child.kill()
            failed = self._child.wait()
        return str(self._gone(b"")) if failed else ""


def record(directory: Directory, nodes: Sequence[str], via: str, wish: Wish, wait: Callable[[Sequence[Tap]], None],
           out: BinaryIO, tally: Tally) -> None:
    """Capture until `wait`, which is called when every node is ready, returns; write the file.

    A node that went away in the middle is told at the end: the file has what came from it until then.
    """
    with tempfile.TemporaryDirectory(prefix=".netscope-", dir=_beside(out)) as scratch, ExitStack() as stack:
        files = [(node, Path(scratch) / str(number)) for number, node in enumerate(nodes)]
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
        gone = [words for tap in taps if (words := tap.end())]
        pairs = []
        for tap, (node, path) in zip(taps, files, strict=True):
            spool, file = Spool(), stack.enter_context(path.open("rb"))
            spool.scan(file)
            if not spool.over and not gone:
                gone.append(f"{node}: its tap ended before it had told all")
            pairs.append((Source(node, spool, tap.ahead), Spool().read(file)))
        tally.lost = {source.node: source.spool.lost for source, _ in pairs}
        for piece in merge(pairs, directory, tally):
            out.write(piece)
        tally.over = True
        if gone:
            raise Unreachable("; ".join(gone))


def _beside(out: BinaryIO) -> str | None:
    """Where the file goes there is room for its packets, too."""
    return str(Path(out.name).absolute().parent) if Path(out.name).is_file() else None
