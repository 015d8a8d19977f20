"""nftables: one transaction at a time, a look at a table, and news of what others change.

Writes go through `nft -f -` as a child: it costs about 10 ms and cannot take the agent down with it. News comes
from a raw netlink socket in the group NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h, nf_tables.h): it costs
nothing at rest, and hears a flushed table at once. Our own transactions are recognised by the port id of the nft
child, which is its pid as that child sees it.

Must not know: what a table is for. Read next: `nodecore/kernel/conntrack.py`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from asyncio.subprocess import Process
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import IO

from nodecore import errors
from nodecore.kernel.nfnetlink import FAMILIES
from nodecore.kernel.ports import EVERYTHING as EVERYTHING

NETLINK_NETFILTER = 12
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
SO_RCVBUFFORCE = 33
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETTABLE, NFT_MSG_NEWGEN = 1, 15
NLM_F_REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
NFTA_TABLE = 1  # the table's name has this number in every message but NEWGEN
NFTA_CHAIN = {3: 3, 5: 3, 6: 2, 8: 2}  # by message: NEWCHAIN and DELCHAIN, NEWRULE and DELRULE
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
FAMILY_OFFSET, FIRST_ATTRIBUTE = 16, 20  # nfgenmsg follows the header
ATTRIBUTE = struct.Struct("=HH")
ATTRIBUTE_MASK = 0x3FFF
RECEIVE_BUFFER = 8 * 1024 * 1024


class Children:
    """The pids of the children that write for us; nft and iptables-nft may share one, as both are heard of."""

    def __init__(self) -> None:
        self.pids: deque[int] = deque(maxlen=64)
        self.starting = asyncio.Lock()  # held while a child runs whose pid is not known yet

    async def start(self, argv: Sequence[str], script: str) -> Process:
        """A child that reads this script."""
        pipe = asyncio.subprocess.PIPE
        with in_memory(script) as source:
            async with self.starting:
                try:
                    child = await asyncio.create_subprocess_exec(*argv, stdin=source, stdout=pipe, stderr=pipe)
                except OSError as error:
                    raise errors.NotFound(f"{argv[0]}: {error.strerror}") from None
                self.pids.append(child.pid)
        return child


class Nft:
    """The nftables of the network namespace this process lives in."""

    def __init__(self, *, command: Sequence[str] = ("nft",), children: Children | None = None) -> None:
        self._command = tuple(command)
        self._children = children or Children()

    async def load(self, script: str) -> None:
        """Run a script as one transaction: all of it happens, or nothing."""
        code, _, complaint = await self._run(["-f", "-"], script)
        if code:
            raise fault(complaint)

    async def check(self, script: str) -> None:
        """Ask whether `load` would succeed, changing nothing."""
        code, _, complaint = await self._run(["-c", "-f", "-"], script)
        if code:
            raise fault(complaint)

    async def list_tables(self) -> frozenset[str]:
        """`family name` of every table there is; asked of the kernel, as `nft list tables` reads every rule to answer."""
        request = HEADER.pack(FIRST_ATTRIBUTE, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, NLM_F_REQUEST_DUMP, 1, 0)
        found: list[str] = []
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as sock:
            sock.settimeout(5)
            try:
                sock.send(request + bytes(FIRST_ATTRIBUTE - HEADER.size))
                while True:
                    datagram = sock.recv(1 << 16)
                    kind = HEADER.unpack_from(datagram)[1]
                    if kind in (NLMSG_ERROR, NLMSG_DONE):
                        break
                    found += touched(datagram)
            except OSError as error:
                raise errors.Fault(f"nftables: {error.strerror or error}") from None
        if kind == NLMSG_ERROR:
            raise errors.Denied(f"nftables: {os.strerror(-struct.unpack_from('=i', datagram, HEADER.size)[0])}")
        return frozenset(found)

    async def list_table(self, family: str, name: str) -> str | None:
        """The table as text without counters, or None where there is none. Slow for big maps."""
        return await self._list(["-s", "list", "table", family, name])

    async def list_map(self, family: str, table: str, name: str) -> str | None:
        """One map with its elements as text, or None where there is none."""
        return await self._list(["list", "map", family, table, name])

    async def _list(self, arguments: list[str]) -> str | None:
        code, text, complaint = await self._run(arguments, "")
        if not code:
            return text
        problem = fault(complaint)
        if isinstance(problem, errors.NotFound):
            return None
        raise problem

    async def _run(self, arguments: list[str], script: str) -> tuple[int, str, str]:
        child = await self._children.start((*self._command, *arguments), script)
        out, complaint = await child.communicate()
        return child.returncode or 0, out.decode(errors="replace"), complaint.decode(errors="replace")

    async def changes(self, *, chains: bool = False) -> AsyncIterator[str]:
        """Yield `family table` for each change by others, and `EVERYTHING` when news was lost.

        With `chains` it is `family table chain` for what happened to a chain or its rules.
        """
        loop = asyncio.get_running_loop()
        with open_monitor() as sock:
            while True:
                try:
                    datagram = await loop.sock_recv(sock, 1 << 17)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise errors.Fault(f"netlink: {error.strerror}") from None
                    yield EVERYTHING
                    continue
                async with self._children.starting:
                    names = touched(datagram, self._children.pids, chains=chains)
                for name in names:
                    yield name


def in_memory(script: str) -> IO[bytes]:
    """A script as a file, whole before nft starts: in a pipe, our sudden death would leave half of it as a transaction."""
    file = os.fdopen(os.memfd_create("nft", os.MFD_CLOEXEC), "w+b")
    file.write(script.encode())
    file.seek(0)
    return file


def open_monitor() -> socket.socket:
    """A socket that hears every committed nftables transaction of this network namespace."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind((0, 0))
        sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
    except OSError as error:
        sock.close()
        raise errors.Denied(f"nftables monitor: {error.strerror}") from None
    return sock


def touched(datagram: bytes, own: Sequence[int] | deque[int] = (), *, chains: bool = False) -> list[str]:
    """The tables (or chains) a datagram of notifications speaks of, each once; nothing if the port id is one of `own`.

    A datagram never mixes transactions, so its first message tells whose it is.
    """
    found: dict[str, None] = {}
    offset, end = 0, len(datagram)
    while offset + FIRST_ATTRIBUTE <= end:
        length, kind, _, _, port = HEADER.unpack_from(datagram, offset)
        if offset == 0 and port in own:
            return []
        if length < FIRST_ATTRIBUTE or offset + length > end:
            break
        message = kind & 0xFF
        if kind >> 8 == NFNL_SUBSYS_NFTABLES and message != NFT_MSG_NEWGEN:
            where = offset + FIRST_ATTRIBUTE, offset + length
            if name := _name(datagram, *where, NFTA_TABLE):
                chain = _name(datagram, *where, NFTA_CHAIN[message]) if chains and message in NFTA_CHAIN else ""
                found[" ".join(filter(None, (FAMILIES.get(datagram[offset + FAMILY_OFFSET], "?"), name, chain)))] = None
        offset += (length + 3) & ~3
    return list(found)


def _name(datagram: bytes, offset: int, end: int, wanted: int) -> str:
    while offset + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(datagram, offset)
        if length < ATTRIBUTE.size:
            return ""
        if kind & ATTRIBUTE_MASK == wanted:
            return datagram[offset + ATTRIBUTE.size : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += (length + 3) & ~3
    return ""


COMPLAINTS = (
    ("No such file or directory", errors.NotFound),
    ("Operation not permitted", errors.Denied),
    ("Permission denied", errors.Denied),
    ("File exists", errors.AlreadyExists),
    ("Device or resource busy", errors.Busy),
    ("Resource temporarily unavailable", errors.Busy),
    ("No buffer space", errors.Busy),
)


def fault(complaint: str) -> errors.Fault:
    """What nft said on stderr, as one of our errors with its first line as the message."""
    lines = [line for line in complaint.splitlines() if line.strip()] or ["failed without a word"]
    for words, kind in COMPLAINTS:
        if words in complaint:
            return kind(f"nft: {lines[0]}")
    return errors.Invalid(f"nft: {lines[0]}")
