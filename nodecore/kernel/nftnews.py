"""What others change in nftables, as the kernel tells it; and the children that write for us, whose changes are no news.

News comes from a raw netlink socket in the group NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h, nf_tables.h): it costs
nothing at rest, and hears a flushed table at once. A transaction carries the port id of whoever made it, which is the pid
of an nft or iptables-nft child as that child sees it.

A pid is given to somebody else as soon as its child has ended. But the kernel tells of a transaction before the call that
made it returns: what a child did is in our queue when it has ended. So the queue is read then, and what comes later with
that pid is not ours.

Must not know: what a table is for. Read next: `nodecore/kernel/nft.py`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Container, Sequence
from typing import IO

from nodecore import errors
from nodecore.kernel.batch import each_attribute, messages_in
from nodecore.kernel.nfnetlink import FAMILIES, NFGENMSG, open_socket
from nodecore.kernel.ports import EVERYTHING

NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWGEN = 15
NFTA_TABLE = 1  # the table's name has this number in every message but NEWGEN
NFTA_CHAIN = {3: 3, 5: 3, 6: 2, 8: 2}  # by message: NEWCHAIN and DELCHAIN, NEWRULE and DELRULE
DATAGRAM = 1 << 17


class Children:
    """Children that write for us; nft and iptables-nft may share one, as both are heard of."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._starting = 0  # children that run and whose pids are not known yet
        self._listeners: list[_Listener] = []

    async def run(self, argv: Sequence[str], script: str = "") -> tuple[int, str, str]:
        """The exit code of a child that reads this script, and what it printed and complained of."""
        child = await self._start(argv, script)
        try:
            out, complaint = await child.communicate()
        finally:
            self._running.discard(child.pid)
            for listener in self._listeners:
                listener.end(child.pid)
            self._judge()
        return child.returncode or 0, out.decode(errors="replace"), complaint.decode(errors="replace")

    async def _start(self, argv: Sequence[str], script: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        self._starting += 1
        try:
            with in_memory(script) as source:
                child = await asyncio.create_subprocess_exec(*argv, stdin=source, stdout=pipe, stderr=pipe)
            self._running.add(child.pid)
            for listener in self._listeners:
                listener.own.add(child.pid)
        except OSError as error:
            raise errors.NotFound(f"{argv[0]}: {error.strerror}") from None
        finally:
            self._starting -= 1
            self._judge()
        return child

    async def changes_by_others(self, *, chains: bool) -> AsyncIterator[str]:
        """`touched` of what was not written by these, and `EVERYTHING` where news was lost. Never ends."""
        loop, listener = asyncio.get_running_loop(), _Listener(self._running, chains=chains)

        def hear() -> None:
            listener.read()
            self._judge()

        self._listeners.append(listener)
        loop.add_reader(listener.sock, hear)
        try:
            while True:
                yield await listener.next()
        finally:
            loop.remove_reader(listener.sock)
            self._listeners.remove(listener)
            listener.sock.close()

    def _judge(self) -> None:
        """Say whose is what was heard; while a child starts, nobody knows."""
        for listener in self._listeners if not self._starting else ():
            listener.judge()


class _Listener:
    """One that hears of every transaction of this network namespace, and tells those of others."""

    def __init__(self, running: set[int], *, chains: bool) -> None:
        self.own = set(running)
        self.sock = open_monitor()
        self._chains = chains
        self._heard: deque[bytes | int] = deque()  # datagrams, and between them the pids of children that have ended
        self._news: asyncio.Queue[str | errors.Fault] = asyncio.Queue()

    async def next(self) -> str:
        news = await self._news.get()
        if isinstance(news, errors.Fault):
            raise news
        return news

    def read(self) -> None:
        """Take in all there is."""
        while True:
            try:
                self._heard.append(self.sock.recv(DATAGRAM))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    self._news.put_nowait(errors.Fault(f"netlink: {error.strerror}"))
                    return
                self._news.put_nowait(EVERYTHING)

    def end(self, pid: int) -> None:
        """A child has ended: what has come until now is the last of it."""
        self.read()
        self._heard.append(pid)

    def judge(self) -> None:
        """Tell what others did."""
        while self._heard:
            item = self._heard.popleft()
            if isinstance(item, int):
                self.own.discard(item)
                continue
            for name in touched(item, self.own, chains=self._chains):
                self._news.put_nowait(name)


def in_memory(script: str) -> IO[bytes]:
    """A script as a file, whole before its reader starts: in a pipe, our sudden death would leave half of it as a transaction."""
    file = os.fdopen(os.memfd_create("script", os.MFD_CLOEXEC), "w+b")
    file.write(script.encode())
    file.seek(0)
    return file


def open_monitor() -> socket.socket:
    """A socket that hears every committed nftables transaction of this network namespace."""
    return open_socket(NFNLGRP_NFTABLES)


def touched(datagram: bytes, own: Container[int] = (), *, chains: bool = False) -> list[str]:
    """The tables (or chains) a datagram of notifications speaks of, each once; nothing where its port id is one of `own`.

    A datagram never mixes transactions.
    """
    found: dict[str, None] = {}
    for kind, port, body in messages_in(datagram):
        if port in own:
            return []
        message = kind & 0xFF
        if kind >> 8 != NFNL_SUBSYS_NFTABLES or message == NFT_MSG_NEWGEN or len(body) < NFGENMSG:
            continue
        wanted = [NFTA_TABLE, *([NFTA_CHAIN[message]] if chains and message in NFTA_CHAIN else [])]
        words = [text.rstrip(b"\0").decode(errors="replace") for what, text in each_attribute(body, NFGENMSG) if what in wanted]
        if words:
            found[" ".join((FAMILIES.get(body[0], "?"), *words))] = None
    return list(found)
