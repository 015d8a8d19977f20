"""The data path of the udp backend, a process of its own: packets between a TUN device and UDP, in plain Python.

    python -m flanneld_py.relay flannel0        started by the daemon, told what to do over an abstract Unix socket

    {"op": "start", "own": "...", "listen": ["192.168.77.1", 8285]}      whom to serve; forgets all peers
    {"op": "add", "subnet": "10.5.2.0/24", "to": "192.168.77.2"}     {"op": "remove", "subnet": "10.5.2.0/24"}
    {"op": "show"}   {"op": "stop"}               each is one line, and is answered by one, which has "error" if it failed

It outlives the daemon, so that the network does. It ends when its device goes, when it is told to, and when no daemon
has spoken to it for a day: by then its node's lease has ended, and the subnet may be somebody else's.
The socket belongs to the network namespace: whichever daemon comes next finds it by the device's name, and leaves no file.

Standard library only: it is to be small. Read next: `flanneld_py/attend/udp.py`.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from nodecore.errors import Fault
from nodecore.kernel.tun import attach_tun

VERSION = 1
PACKET = 65536
BURST = 64  # packets from one side before the other has its turn
REMEMBERED = 65536  # destinations
ALONE = 86400.0  # seconds without a daemon
SOCKET_BUFFER = 1 << 22
IP_HEADER = 20
ICMP, UNREACHABLE, TTL = 1, 3, 64
IP_MTU_DISCOVER, PMTUDISC_DONT = 10, 0

Where = tuple[str, int]


def control_address(device: str) -> str:
    """Where the relay of a device is spoken to."""
    return f"\0flanneld-py/relay/{device}"


class Table:
    """Who has which subnet; the longest that fits, and what was looked up once is remembered."""

    def __init__(self) -> None:
        self.peers: dict[str, Where] = {}
        self._by_length: dict[int, dict[int, Where]] = {}
        self._remembered: dict[bytes, Where | None] = {}

    def add(self, subnet: str, where: Where) -> None:
        """Have a subnet's packets go somewhere."""
        number, length = _parse(subnet)
        self._by_length.setdefault(length, {})[number >> 32 - length] = where
        self.peers[subnet] = where
        self._remembered.clear()

    def remove(self, subnet: str) -> None:
        """Have them go nowhere."""
        number, length = _parse(subnet)
        self._by_length.get(length, {}).pop(number >> 32 - length, None)
        self.peers.pop(subnet, None)
        self._remembered.clear()

    def next_hop(self, destination: bytes) -> Where | None:
        """Where a packet for an address goes."""
        try:
            return self._remembered[destination]
        except KeyError:
            return self._look_up(destination)

    def _look_up(self, destination: bytes) -> Where | None:
        number = int.from_bytes(destination, "big")
        lengths = sorted(self._by_length, reverse=True)
        found = (self._by_length[length].get(number >> 32 - length) for length in lengths)
        where = next((where for where in found if where), None)
        if len(self._remembered) >= REMEMBERED:
            self._remembered.clear()
        self._remembered[destination] = where
        return where


def _parse(subnet: str) -> tuple[int, int]:
    address, _, length = subnet.partition("/")
    return int.from_bytes(socket.inet_aton(address), "big"), int(length)


def refusal(packet: bytes) -> bytes:
    """The ICMP answer to a packet that nobody takes; empty where there is to be none (RFC 1122, 3.2.2).

    It is from whom the packet was for: one from ourselves would not be let in from a device.
    """
    length = (packet[0] & 15) * 4
    later_fragment = (packet[6] << 8 | packet[7]) & 0x1FFF
    if packet[9] == ICMP or later_fragment or not IP_HEADER <= length <= len(packet) or packet[16] >= 224:
        return b""
    body = struct.pack("!BBHI", UNREACHABLE, 0, 0, 0) + packet[: length + 8]
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, IP_HEADER + len(body), 0, 0, TTL, ICMP, 0, packet[16:20], packet[12:16])
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def checksum(data: bytes) -> int:
    """That of the internet protocols."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


class Relay:
    """One device's packets, from `run` until it returns why it ended."""

    def __init__(self, device: str, alone: float = ALONE) -> None:
        self._tun = attach_tun(device)
        self._table = Table()
        self._own = ""
        self._listen: Where = ("", 0)
        self._udp: socket.socket | None = None
        self._alone = alone
        self._end = ""
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._unread: dict[int, bytes] = {}
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        control.bind(control_address(device))
        control.listen()
        self._control = control
        self._watch(control.fileno(), self._accept)
        self._watch(self._tun, self._from_tun)

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.EPOLLIN)

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._handlers[fd]

    def run(self) -> str:
        """Carry packets until there is a reason to end, and return that."""
        since = time.monotonic()
        while not self._end:
            if self._unread:
                since = time.monotonic()
            left = since + self._alone - time.monotonic()
            if left <= 0:
                return "no daemon has been here for too long"
            for fd, _ in self._poll.poll(left):
                if handler := self._handlers.get(fd):
                    handler()
        return self._end

    def _from_tun(self) -> None:
        tun, next_hop = self._tun, self._table.next_hop
        for _ in range(BURST):
            try:
                packet = os.read(tun, PACKET)
            except BlockingIOError:
                return
            except OSError as error:
                self._end = f"the device is gone ({error.strerror})"
                return
            if packet[0] >> 4 != 4 or not self._udp:
                continue
            where = next_hop(packet[16:20])
            try:
                if where:
                    self._udp.sendto(packet, where)
                elif answer := refusal(packet):
                    os.write(tun, answer)
            except OSError:
                continue  # no buffer, no way, too long: dropped, as by any router

    def _from_udp(self) -> None:
        assert self._udp
        for _ in range(BURST):
            try:
                packet = self._udp.recv(PACKET)
            except BlockingIOError:
                return
            except OSError:
                continue  # what ICMP told of an earlier packet
            if len(packet) >= IP_HEADER and packet[0] >> 4 == 4:
                try:
                    os.write(self._tun, packet)
                except OSError:
                    continue  # the device is down, or not as the packet says it is

    def _accept(self) -> None:
        connection, _ = self._control.accept()
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user not in (0, os.geteuid()):
            connection.close()
            return
        connection.settimeout(2.0)
        fd = connection.fileno()
        self._unread[fd] = b""
        self._watch(fd, lambda: self._converse(connection))

    def _converse(self, connection: socket.socket) -> None:
        fd = connection.fileno()
        try:
            data = connection.recv(1 << 16)
            *lines, self._unread[fd] = (self._unread[fd] + data).split(b"\n")
            for line in lines:
                connection.sendall(json.dumps(self._answer(line)).encode() + b"\n")
        except OSError:
            data = b""
        if not data:
            self._forget(fd)
            del self._unread[fd]
            connection.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            order = json.loads(line)
            return self._obey(order) or {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _obey(self, order: dict[str, Any]) -> dict[str, Any] | None:
        match order["op"]:
            case "start":
                self._start(order["own"], (order["listen"][0], order["listen"][1]))
            case "add":
                self._table.add(order["subnet"], (order["to"], self._listen[1]))
            case "remove":
                self._table.remove(order["subnet"])
            case "show":
                peers = {subnet: where[0] for subnet, where in self._table.peers.items()}
                return {"version": VERSION, "pid": os.getpid(), "own": self._own, "listen": self._listen, "peers": peers}
            case "stop":
                self._end = "told to"
            case other:
                raise ValueError(f"unknown order {other!r}")
        return None

    def _start(self, own: str, listen: Where) -> None:
        if listen != self._listen:
            if self._udp:
                self._forget(self._udp.fileno())
                self._udp.close()
                self._udp, self._listen = None, ("", 0)
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                udp.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
            udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)  # a narrower way is passed in fragments
            udp.bind(listen)
            self._udp, self._listen = udp, listen
            self._watch(udp.fileno(), self._from_udp)
        self._own, self._table = own, Table()


def main(arguments: list[str]) -> int:
    """Run the relay of a device; the exit code."""
    device, *alone = arguments
    try:
        why = Relay(device, *map(float, alone)).run()
    except (Fault, OSError) as error:
        why = ""
        _say(f"relay of {device}: {error}")
    else:
        _say(f"relay of {device} ends: {why}")
    return 0 if why else 1


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        return  # whoever listened has ended before us


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
