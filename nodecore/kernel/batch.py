"""Netlink messages as packed structs: bulk writes with every error seen, and quick dumps.

pyroute2 spends about 0.2 ms of Python on a message; a node with 1,000 peers has 3,000 entries. Packed here and sent
`BATCH` to a call they take less than a tenth of a second, and no agent carries the library in its memory.

    with NetlinkSocket() as sock:
        errors = sock.send([Message(RTM_NEWROUTE, CREATE | REPLACE, body), ...])   # one answer a message, in order
        for kind, body in sock.dump(RTM_GETROUTE, header): ...

Every call is synchronous: the kernel answers within the send itself.
Must not know: routes or links (`nodecore/kernel/messages.py` does). Read next: that.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from nodecore.errors import AlreadyExists, Busy, Denied, Fault, Invalid, NotFound, Unreachable, Unsupported
from nodecore.kernel.netns import inside

NLMSG_ERROR, NLMSG_DONE = 2, 3
F_REQUEST, F_ACK, F_DUMP_INTR = 0x1, 0x4, 0x10
F_DUMP = 0x300
F_CAPPED, F_ACK_TLVS = 0x100, 0x200
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400

SOL_NETLINK = 270
NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 10, 11, 12
NLMSGERR_ATTR_MSG = 1
SO_RCVBUFFORCE = 33
NLA_TYPE_MASK = 0x3FFF

BATCH = 300
BUFFER = 1 << 20
HEADER = struct.Struct("=IHHII")
ATTR = struct.Struct("=HH")

FAULTS: Mapping[int, type[Fault]] = {
    errno.ENODEV: NotFound, errno.ENOENT: NotFound, errno.ESRCH: NotFound, errno.EADDRNOTAVAIL: NotFound, errno.ENXIO: NotFound,
    errno.EEXIST: AlreadyExists, errno.EADDRINUSE: AlreadyExists,
    errno.EBUSY: Busy, errno.EAGAIN: Busy, errno.ENOBUFS: Busy, errno.EINTR: Busy,
    errno.EOPNOTSUPP: Unsupported, errno.EPROTONOSUPPORT: Unsupported, errno.EAFNOSUPPORT: Unsupported,
    errno.EPERM: Denied, errno.EACCES: Denied,
    errno.ENETDOWN: Unreachable, errno.ENETUNREACH: Unreachable, errno.EHOSTUNREACH: Unreachable,
}


@dataclass(frozen=True, slots=True)
class Message:
    """One request: its type, flags beside REQUEST and ACK, and its body (a multiple of four bytes)."""

    kind: int
    flags: int
    body: bytes


def fault_of(number: int, what: str, detail: str = "") -> Fault:
    """The error class of an errno, with the kernel's own words where it has some."""
    return FAULTS.get(number, Invalid)(f"{what}: {detail or os.strerror(number)}")


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = len(value) + 4
    return ATTR.pack(size, kind) + value + b"\0" * (-size % 4)


def spans(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Each attribute between two places: its kind, and where its value begins and ends."""
    while start + 4 <= end:
        size, kind = ATTR.unpack_from(data, start)
        if size < 4:
            break
        yield kind & NLA_TYPE_MASK, start + 4, start + size
        start += size + 3 & ~3


def each_attribute(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes of a body from `start` on, in order."""
    return ((kind, data[first:last]) for kind, first, last in spans(data, start, len(data)))


def attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    """The same by kind; of a repeated one the last."""
    return {kind: data[first:last] for kind, first, last in spans(data, start, len(data))}


class Found(NamedTuple):
    """A message in a datagram; its body begins and ends there."""

    kind: int
    flags: int
    sequence: int
    port: int  # id of whoever asked for it
    start: int
    end: int


def find_messages(data: bytes) -> Iterator[Found]:
    """Each message of a datagram."""
    start = 0
    while start + HEADER.size <= len(data):
        size, kind, flags, sequence, port = HEADER.unpack_from(data, start)
        if size < HEADER.size:
            return
        yield Found(kind, flags, sequence, port, start + HEADER.size, start + size)
        start += size + 3 & ~3


def messages_in(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, port id of whoever asked for it, and body of each message in a datagram."""
    return ((found.kind, found.port, data[found.start : found.end]) for found in find_messages(data))


def open_netlink(protocol: int, flags: int = 0) -> socket.socket:
    """A bare socket of this network namespace."""
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | flags, protocol)
    except OSError as error:
        raise fault_of(error.errno or errno.EIO, "netlink") from None


def make_room(sock: socket.socket, size: int) -> None:
    """Have a socket hold so much that nobody has read yet, or what is allowed of it."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


class NetlinkSocket:
    """A netlink socket, of the routing kind unless told otherwise, of this or another network namespace."""

    def __init__(
        self, netns: str = "", groups: Sequence[int] = (), protocol: int = socket.NETLINK_ROUTE, buffer: int = BUFFER
    ) -> None:
        with inside(netns) if netns else nullcontext():
            self.sock = open_netlink(protocol)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self.sock.setsockopt(SOL_NETLINK, option, 1)
        make_room(self.sock, buffer)
        self.sock.bind((0, sum(1 << (group - 1) for group in groups)))
        self._sequence = 0

    @property
    def port(self) -> int:
        """The port id, by which the kernel names who asked for a change."""
        return int(self.sock.getsockname()[0])

    def send(self, messages: Sequence[Message]) -> list[Fault | None]:
        """Send requests and return one answer for each, None where it worked."""
        answers: list[Fault | None] = []
        for start in range(0, len(messages), BATCH):
            answers += self._send_batch(messages[start : start + BATCH])
        return answers

    def _send_batch(self, messages: Sequence[Message]) -> list[Fault | None]:
        """Only the last is asked to be answered: they are done in order, and errors are answered anyway."""
        first = self._sequence + 1
        self._sequence += len(messages)
        last = len(messages) - 1
        self.sock.send(b"".join(
            HEADER.pack(16 + len(m.body), m.kind, m.flags | F_REQUEST | F_ACK * (index == last), first + index, 0) + m.body
            for index, m in enumerate(messages)
        ))
        answers: list[Fault | None] = [None] * len(messages)
        index = -1
        while index != last:
            for kind, flags, sequence, body in self._receive():
                if kind == NLMSG_ERROR and 0 <= sequence - first <= last:
                    index = sequence - first
                    answers[index] = _answer(flags, body)
        return answers

    def get(self, kind: int, body: bytes, what: str) -> bytes:
        """Ask for one thing and return the body of the answer."""
        self._sequence += 1
        self.sock.send(HEADER.pack(16 + len(body), kind, F_REQUEST, self._sequence, 0) + body)
        while True:
            for answer, flags, sequence, found in self._receive():
                if sequence != self._sequence:
                    continue
                if answer == NLMSG_ERROR:
                    raise _answer(flags, found, what) or Invalid(f"{what}: no answer")
                return found

    def dump(self, kind: int, body: bytes, what: str = "netlink") -> Iterator[bytes]:
        """Read a table; `Busy` when it changed meanwhile and must be read again."""
        self._sequence += 1
        self.sock.send(HEADER.pack(16 + len(body), kind, F_REQUEST | F_DUMP, self._sequence, 0) + body)
        torn = False
        while True:
            for answer, flags, sequence, found in self._receive():
                if sequence != self._sequence:
                    continue
                torn = torn or bool(flags & F_DUMP_INTR)
                if answer == NLMSG_DONE:
                    if torn:
                        raise Busy(f"{what}: the table changed while it was read")
                    return
                if answer == NLMSG_ERROR:
                    fault = _answer(flags, found, what)
                    if fault:
                        raise fault
                    return
                yield found

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            data = self.sock.recv(BUFFER)
        except OSError as error:
            raise fault_of(error.errno or errno.EIO, "netlink") from None
        return ((found.kind, found.flags, found.sequence, data[found.start : found.end]) for found in find_messages(data))

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answer(flags: int, body: bytes, what: str = "netlink") -> Fault | None:
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return None
    detail = ""
    if flags & F_ACK_TLVS:
        (size,) = struct.unpack_from("=I", body, 4)
        start = 4 + (16 if flags & F_CAPPED else size + 3 & ~3)
        detail = attributes(body, start).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    return fault_of(-code, what, detail)
