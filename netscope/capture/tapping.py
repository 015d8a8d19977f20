"""A node's side of a capture: blocks from the kernel's ring to stdout, until stdin ends; or the last of them, then.

Lines on stdin: first the wish as JSON, which no shell on the way has to understand; `time` is answered on stderr (ns since 1970),
so clocks are compared; after `go` packets may come, which until then wait in the ring, as nobody reads them yet. Faults that are
watched for are told on stderr as well, as `fault WORDS`.

Must not know: other nodes. Read next: `spool.py`, `keeping.py`, `faults.py`.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from netscope import bpf, filters
from netscope.capture.blocks import newest
from netscope.capture.keeping import Kept, Limits
from netscope.capture.spool import News, Spool, Translated, framed, told
from netscope.flow import TCP
from nodecore.errors import Fault, UserError
from nodecore.kernel.ring import Ring
from nodecore.net import parse_address

PAUSE = 0.05
NEWS = 0.7  # seconds between looks for news, where packets are passed on at once
BLOCK_TIME = 100_000_000  # ns: longer than the kernel keeps a block that is not full


class Wish(msgspec.Struct, frozen=True):
    """What is asked of a node: the packets that this program takes, which counts from their network header; whose translations
    (everybody's without hosts); what to keep back, and which faults to watch for.
    """

    hosts: tuple[str, ...] = ()
    program: bytes = bpf.of_everything()
    limits: Limits | None = None
    live: bool = False
    resets: bool = False
    metrics: tuple[str, ...] = ()


def tap() -> None:
    """Capture what the first line asks for."""
    wish = _wish()
    ring = Ring(filters.whole_frames(filters.all_of((*_not_itself(), wish.program))))
    try:
        with os.fdopen(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as out:
            _Tap(wish, ring, lambda data: _write(out.fileno(), data)).run()
    except BrokenPipeError:
        pass  # whoever asked is gone
    except OSError as error:  # a full disk
        raise Fault(f"writing what was captured: {error.strerror}") from None
    finally:
        ring.close()


def _not_itself() -> list[bytes]:
    """The ssh connection that carries what is captured is not: each of its packets would make others."""
    client, port, *_ = os.environ.get("SSH_CONNECTION", "").split() or ("", "")
    return [filters.none_of(bpf.of_ends([(parse_address(client.partition("%")[0]), int(port), TCP)]))] if port.isdigit() else []


def _wish() -> Wish:
    line = b""
    while not line.endswith(b"\n"):  # no byte more: what follows is for select
        piece = os.read(0, 1)
        if not piece:
            raise UserError("a tap is started by `netscope capture`, which says on its stdin what is wanted")
        line += piece
    return msgspec.json.decode(line, type=Wish)


class _Tap:
    def __init__(self, wish: Wish, ring: Ring, write: Callable[[bytes], None]) -> None:
        self._wish, self._ring, self._write = wish, ring, write
        self._kept = Kept(wish.limits) if wish.limits else None
        self._known = Spool()  # what has been told
        self._next_news, self._told_until = 0.0, 0
        self._watch = _watch(wish)
        self._passes = False

    def run(self) -> None:
        self._tell(over=False)
        while self._goes_on():
            self._watch()
            if self._passes:
                self._once()
            else:
                select.select([0], [], [], PAUSE)
        while block := self._ring.take(PAUSE):  # what was still on its way into a block
            self._pass(block)
        for block in self._kept.take() if self._kept else ():
            self._write(framed(block))
        self._tell(over=True, translated=_translated(self._wish.hosts))

    def _once(self) -> None:
        """The next block, if there is one; and news, where packets are passed on at once, and how far all has been told."""
        if self._wish.live and time.monotonic() > self._next_news:
            self._told_until = time.time_ns() - BLOCK_TIME
            self._tell(over=False, translated=_translated(self._wish.hosts))
            self._next_news = time.monotonic() + NEWS
        if block := self._ring.take(PAUSE):
            self._pass(block)
        if self._told_until and (not block or newest(block) > self._told_until):
            self._write(told(News(until=self._told_until)))
            self._told_until = 0

    def _goes_on(self) -> bool:
        """Tell the time as often as asked; no more when stdin has ended."""
        if not select.select([0], [], [], 0)[0]:
            return True
        words = os.read(0, 4096)
        for _ in range(words.count(b"time")):
            os.write(2, b"%d\n" % time.time_ns())
        self._passes |= b"go" in words
        return bool(words)

    def _pass(self, block: bytes) -> None:
        if self._kept:
            self._kept.add(block, time.monotonic())
        else:
            self._write(framed(block))

    def _tell(self, *, over: bool, translated: Sequence[Translated] = ()) -> None:
        """What is new since the last time, if anything is."""
        names = {number: name for number, name in socket.if_nameindex() if self._known.names.get(number) != name}
        known = set(self._known.translated)
        news = News(names, tuple(each for each in translated if each not in known), self._ring.lost(), over)
        if news != News():
            piece = told(news)
            self._known.translated = [*translated]
            self._known.names |= names
            self._write(piece)


def _watch(wish: Wish) -> Callable[[], None]:
    if not wish.resets and not wish.metrics:
        return lambda: None
    from netscope.capture.faults import Watch

    return Watch(filters.all_of((wish.program, bpf.of_resets())) if wish.resets else None, wish.metrics).look


def _translated(hosts: Sequence[str]) -> list[Translated]:
    from netscope.capture.translations import translations

    return translations(hosts)


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
