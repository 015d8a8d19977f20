"""IPVS: virtual servers and their destinations, over generic netlink, in bulk.

Layouts: linux/ip_vs.h. A destination of weight 0 is given no new connections and keeps those it has, of which the kernel
tells the number. The kernel sends no news of changes.

Must not know: Services, or why a server is there. Read next: `nodecore/kernel/fakeipvs.py`.
"""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence

from nodecore.errors import AlreadyExists, Fault, NotFound, Unsupported
from nodecore.kernel.batch import attribute, attributes
from nodecore.kernel.genetlink import GenericSocket
from nodecore.kernel.virtualserver import Destination, Server, ServerKey, Timeouts
from nodecore.net import Family

FAMILY, VERSION, MODULE = "IPVS", 1, "ip_vs"
NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE = 1, 2, 3, 4
NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = 5, 6, 7, 8
SET_CONFIG = 12
CMD_SERVICE, CMD_DEST, CMD_TIMEOUT_TCP, CMD_TIMEOUT_TCP_FIN, CMD_TIMEOUT_UDP = 1, 2, 4, 5, 6
SVC_AF, SVC_PROTOCOL, SVC_ADDR, SVC_PORT, SVC_FWMARK, SVC_SCHEDULER, SVC_FLAGS, SVC_TIMEOUT, SVC_NETMASK = range(1, 10)
DEST_ADDR, DEST_PORT, DEST_FORWARD, DEST_WEIGHT, DEST_UPPER, DEST_LOWER, DEST_ACTIVE, DEST_INACTIVE = range(1, 9)
DEST_STATS = 12  # in 64 bits each
STATS_PACKETS_IN, STATS_PACKETS_OUT, STATS_BYTES_IN, STATS_BYTES_OUT = range(2, 6)
PERSISTENT = 0x1
MASQUERADE = 0  # the forwarding method that translates addresses
ONE_CLIENT = {Family.IPV4: b"\xff\xff\xff\xff", Family.IPV6: struct.pack("=I", 128)}
NUMBERS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
NAMES = {number: name for name, number in NUMBERS.items()}
LARGEST = 16  # bytes of an address in a message, whatever its family
U16, U32, U64, PORT = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=Q"), struct.Struct("!H")


class Ipvs:
    """The virtual servers of a network namespace."""

    def __init__(self, netns: str = "") -> None:
        self._netns = netns
        self._socket: GenericSocket | None = None

    def servers(self) -> list[Server]:
        """All there are, but for those by packet mark."""
        return [server for body in self._open().dump(GET_SERVICE, b"") if (server := read_server(body))]

    def destinations(self, servers: Iterable[ServerKey]) -> list[Destination]:
        """Who answers for these servers, with the number of connections; none for a server that is not there."""
        found: list[Destination] = []
        for key in servers:
            try:
                found += [read_destination(key, body) for body in self._open().dump(GET_DEST, _nested(CMD_SERVICE, _key(key)))]
            except NotFound:
                continue
        return found

    def put_servers(self, servers: Sequence[Server]) -> list[Fault | None]:
        """Add servers or change them; one answer each."""
        return self._put(NEW_SERVICE, SET_SERVICE, [pack_server(server) for server in servers])

    def put_destinations(self, destinations: Sequence[Destination]) -> list[Fault | None]:
        """Add destinations or change their weights."""
        return self._put(NEW_DEST, SET_DEST, [pack_destination(item) for item in destinations])

    def remove_servers(self, keys: Sequence[ServerKey]) -> list[Fault | None]:
        """Take servers away with all their destinations; one that is not there is no fault."""
        return _but_absent(self._open().send(DEL_SERVICE, [_nested(CMD_SERVICE, _key(key)) for key in keys]))

    def remove_destinations(self, destinations: Sequence[Destination]) -> list[Fault | None]:
        """Take destinations away; one that is not there is no fault."""
        return _but_absent(self._open().send(DEL_DEST, [pack_destination(item) for item in destinations]))

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set what is not 0; `Unsupported` where there is no IPVS, asked for anything or not."""
        wanted = ((CMD_TIMEOUT_TCP, timeouts.tcp), (CMD_TIMEOUT_TCP_FIN, timeouts.tcp_fin), (CMD_TIMEOUT_UDP, timeouts.udp))
        body = b"".join(attribute(kind, U32.pack(seconds)) for kind, seconds in wanted)
        opened = self._open()
        for fault in opened.send(SET_CONFIG, [body]) if any(seconds for _, seconds in wanted) else ():
            if fault:
                raise fault

    def _put(self, new: int, change: int, bodies: Sequence[bytes]) -> list[Fault | None]:
        answers = self._open().send(new, bodies)
        there = [index for index, fault in enumerate(answers) if isinstance(fault, AlreadyExists)]
        for index, fault in zip(there, self._open().send(change, [bodies[index] for index in there]), strict=True):
            answers[index] = fault
        return answers

    def _open(self) -> GenericSocket:
        if not self._socket:
            load_module()
            try:
                self._socket = GenericSocket(FAMILY, VERSION, self._netns)
            except Unsupported:
                raise Unsupported(f"this kernel has no module {MODULE}, and none can be loaded") from None
        return self._socket

    def close(self) -> None:
        """Close the socket; the servers stay."""
        if self._socket:
            self._socket.close()
            self._socket = None


def load_module() -> None:
    """Have the kernel load the module, which asking for its family does not; whether it could is seen then."""
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "--quiet", MODULE], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def pack_server(server: Server) -> bytes:
    """A message's body that makes a server what it should be."""
    flags = PERSISTENT if server.persistence else 0
    return _nested(CMD_SERVICE, (
        _key(server.key) + attribute(SVC_SCHEDULER, server.scheduler.encode() + b"\0")
        + attribute(SVC_FLAGS, struct.pack("=II", flags, 0xFFFFFFFF)) + attribute(SVC_TIMEOUT, U32.pack(server.persistence))
        + attribute(SVC_NETMASK, ONE_CLIENT[server.key.family])
    ))


def pack_destination(item: Destination) -> bytes:
    """A message's body that makes a destination what it should be, or names it."""
    return _nested(CMD_SERVICE, _key(item.server)) + _nested(CMD_DEST, (
        attribute(DEST_ADDR, _address(item.address)) + attribute(DEST_PORT, PORT.pack(item.port))
        + attribute(DEST_FORWARD, U32.pack(MASQUERADE)) + attribute(DEST_WEIGHT, U32.pack(item.weight))
        + attribute(DEST_UPPER, U32.pack(0)) + attribute(DEST_LOWER, U32.pack(0))
    ))


def _key(key: ServerKey) -> bytes:
    return (
        attribute(SVC_AF, U16.pack(key.family.af)) + attribute(SVC_PROTOCOL, U16.pack(NUMBERS[key.protocol]))
        + attribute(SVC_ADDR, _address(key.address)) + attribute(SVC_PORT, PORT.pack(key.port))
    )


def _address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text).ljust(LARGEST, b"\0")


def _nested(kind: int, body: bytes) -> bytes:
    return attribute(kind | 0x8000, body)


def read_server(body: bytes) -> Server | None:
    """A server from an answer; None for one by packet mark, or of a protocol that has no ports."""
    found = attributes(attributes(body).get(CMD_SERVICE, b""))
    name = NAMES.get(U16.unpack(found[SVC_PROTOCOL])[0]) if SVC_PROTOCOL in found else None
    if SVC_ADDR not in found or not name:
        return None
    key = ServerKey(_text(found[SVC_ADDR], U16.unpack(found[SVC_AF])[0]), name, PORT.unpack(found[SVC_PORT])[0])
    flags, = U32.unpack(found[SVC_FLAGS][:4])
    scheduler = found.get(SVC_SCHEDULER, b"").rstrip(b"\0").decode()
    return Server(key, scheduler, U32.unpack(found[SVC_TIMEOUT])[0] if flags & PERSISTENT else 0)


def read_destination(server: ServerKey, body: bytes) -> Destination:
    """A destination from an answer."""
    found = attributes(attributes(body)[CMD_DEST])
    counts = attributes(found.get(DEST_STATS, b""))
    return Destination(
        server, _text(found[DEST_ADDR], server.family.af), PORT.unpack(found[DEST_PORT])[0], _number(found, DEST_WEIGHT),
        connections=_number(found, DEST_ACTIVE) + _number(found, DEST_INACTIVE),
        arrived=_pair(counts, STATS_PACKETS_IN, STATS_BYTES_IN), answered=_pair(counts, STATS_PACKETS_OUT, STATS_BYTES_OUT),
    )


def _text(raw: bytes, af: int) -> str:
    return socket.inet_ntop(af, raw[: 4 if af == socket.AF_INET else LARGEST])


def _number(found: Mapping[int, bytes], kind: int) -> int:
    return int(U32.unpack(found.get(kind, bytes(4)))[0])


def _pair(found: Mapping[int, bytes], packets: int, size: int) -> tuple[int, int]:
    return U64.unpack(found.get(packets, bytes(8)))[0], U64.unpack(found.get(size, bytes(8)))[0]


def _but_absent(answers: list[Fault | None]) -> list[Fault | None]:
    return [None if isinstance(fault, NotFound) else fault for fault in answers]
