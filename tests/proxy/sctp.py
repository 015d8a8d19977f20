"""SCTP for tests: sockets of the kernel's where it has them, and else an association that is set up packet by packet.

A kernel without SCTP sockets tracks, translates and refuses SCTP packets all the same, so the way they take can be asked
everywhere. By hand that is INIT, INIT ACK, COOKIE ECHO, then COOKIE ACK with the answer in a DATA chunk, and ABORT (RFC 9260).
"""

from __future__ import annotations

import errno
import functools
import random
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address

SCTP = 132
IP_RECVERR, IPV6_RECVERR = 11, 25
RETRANSMISSION = 0  # SCTP_RTOINFO: milliseconds of the first, at most and at least
BEGINNING = 2  # SCTP_INITMSG: streams out and in, attempts, milliseconds between them at most; 0 for what is to stay
DATA, INIT, INIT_ACK, ABORT, COOKIE_ECHO, COOKIE_ACK = 0, 1, 2, 6, 10, 11
COMMON, CHUNK = struct.Struct("!HHI4s"), struct.Struct("!BBH")
WHOLE_MESSAGE, COOKIE_PARAMETER = 3, 7
TAG = 0x5C7F
NOBODY_THERE = (errno.ENOPROTOOPT, errno.EPROTO)  # how a kernel without SCTP tells, in IPv4 and in IPv6


@functools.cache
def in_kernel() -> bool:
    try:
        socket.socket(type=socket.SOCK_STREAM, proto=SCTP).close()
    except OSError:
        return False
    return True


def prepare(sock: socket.socket, address: str) -> None:
    """Before a kernel's socket connects: one address of ours is told the other side, and a refusal is told us.

    Between namespaces a refusal comes while the socket is still sending, and is then forgotten: it tries again soon. How long,
    is for the socket's own time limit to say, and not for the eight attempts that the kernel makes, which take six seconds.
    """
    with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        sock.bind((probe.getsockname()[0], 0))
    ipv4 = sock.family is socket.AF_INET
    sock.setsockopt(socket.IPPROTO_IP if ipv4 else socket.IPPROTO_IPV6, IP_RECVERR if ipv4 else IPV6_RECVERR, 1)
    sock.setsockopt(SCTP, RETRANSMISSION, struct.pack("iIII", 0, 100, 1000, 50))
    sock.setsockopt(SCTP, BEGINNING, struct.pack("HHHH", 0, 0, 1000, 0))


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _table()[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


@functools.cache
def _table() -> tuple[int, ...]:
    return tuple(functools.reduce(lambda value, _: value >> 1 ^ (0x82F63B78 if value & 1 else 0), range(8), byte)
                 for byte in range(256))


def packet(source: int, target: int, tag: int, *chunks: tuple[int, int, bytes]) -> bytes:
    """Chunks are (type, flags, content)."""
    body = b"".join(CHUNK.pack(kind, flags, 4 + len(content)) + content + bytes(-len(content) % 4)
                    for kind, flags, content in chunks)
    checksum = struct.pack("<I", crc32c(COMMON.pack(source, target, tag, bytes(4)) + body))
    return COMMON.pack(source, target, tag, checksum) + body


def beginning(tag: int) -> bytes:
    """What INIT and INIT ACK say: tag, window, streams out and in, first number."""
    return struct.pack("!IIHHI", tag, 65536, 1, 1, 1)


def read(data: bytes, kind: socket.AddressFamily) -> tuple[int, int, int, dict[int, bytes]]:
    """Source and target port, tag, and chunks by type; raw sockets of IPv4 give the IP header as well."""
    if kind is socket.AF_INET:
        data = data[(data[0] & 15) * 4 :]
    source, target, tag, _ = COMMON.unpack_from(data)
    return source, target, tag, dict(_chunks(data[COMMON.size :]))


def _chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= CHUNK.size:
        kind, _, length = CHUNK.unpack_from(data)
        yield kind, data[CHUNK.size : length]
        data = data[max(length + -length % 4, CHUNK.size) :]


def ask(sock: socket.socket, address: str, port: int) -> bytes:
    """What is answered to an association that a raw socket with a time limit sets up."""
    sock.connect((address, 0))
    ours = random.randrange(20000, 60000)

    def exchange(sent: bytes, wanted: int) -> tuple[int, dict[int, bytes]]:
        sock.send(sent)
        while True:
            try:
                source, target, tag, chunks = read(sock.recv(2048), sock.family)
            except OSError as error:
                if error.errno in NOBODY_THERE:
                    raise ConnectionRefusedError from None
                raise
            if (source, target, *chunks) == (ours, port, INIT):  # on loopback one meets nobody but oneself
                raise ConnectionRefusedError
            if (source, target, *chunks) == (port, ours, ABORT):
                raise ConnectionRefusedError
            if (source, target) == (port, ours) and wanted in chunks:
                return tag, chunks

    tag, chunks = exchange(packet(ours, port, 0, (INIT, 0, beginning(TAG))), INIT_ACK)
    assert tag == TAG
    theirs = struct.unpack_from("!I", chunks[INIT_ACK])[0]
    cookie = chunks[INIT_ACK][16 + 4 :]
    tag, chunks = exchange(packet(ours, port, theirs, (COOKIE_ECHO, 0, cookie)), DATA)
    assert (tag, COOKIE_ACK in chunks) == (TAG, True)
    sock.send(packet(ours, port, theirs, (ABORT, 0, b"")))
    return chunks[DATA][12:]


def serve(sock: socket.socket, port: int, served: set[int], answer: Callable[[str], bytes]) -> None:
    """Answer who sets up an association, on a bound raw socket until that is shut down; no state is kept but in the cookie.

    Whoever asks for a port that is not among those `served` at this address is sent away.
    """
    while True:
        data, caller = sock.recvfrom(2048)
        if not data:
            return
        source, target, _, chunks = read(data, sock.family)
        if target not in served and INIT in chunks:
            reply = packet(target, source, *struct.unpack_from("!I", chunks[INIT]), (ABORT, 0, b""))
        elif target != port:
            continue
        elif INIT in chunks:
            tag = chunks[INIT][:4]
            cookie = struct.pack("!HH", COOKIE_PARAMETER, 8) + tag
            reply = packet(port, source, *struct.unpack("!I", tag), (INIT_ACK, 0, beginning(TAG + 1) + cookie))
        elif COOKIE_ECHO in chunks:
            tag, said = chunks[COOKIE_ECHO][:4], answer(str(ip_address(caller[0])))
            reply = packet(port, source, *struct.unpack("!I", tag), (COOKIE_ACK, 0, b""),
                           (DATA, WHOLE_MESSAGE, struct.pack("!IHHI", 1, 0, 0, 0) + said))
        else:
            continue
        sock.sendto(reply, (caller[0], 0))
