"""The attendant of the udp backend: starts the relay, or finds the one an earlier daemon left, and tells it the peers.

Must not know: packets. Read next: `flanneld_py/relay.py`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

from flanneld_py.backends.udp import UdpBackend
from flanneld_py.lease import Lease, Part, decode_lease, encode_lease
from flanneld_py.relay import VERSION, control_address
from nodecore.errors import Fault, Invalid, Unreachable
from nodecore.net import IPAddress

log = logging.getLogger(__name__)

PATIENCE = 2.0  # seconds for an answer
STARTUP = 10.0  # and until a new relay gives its first


class UdpAttendant:
    """Speaks to the relay of one device."""

    def __init__(self, backend: UdpBackend, local: IPAddress, changed: Callable[[], None]) -> None:
        self._device, self._listen = backend.device, [str(local), backend.port]
        self._changed = changed
        self._connection: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._peers: tuple[Part, ...] = ()
        self._said = False

    def serving(self) -> Lease | None:
        """The lease the relay is there for, whoever started it; None where there is none, or none of our kind."""
        self._peers = ()
        if self._child:
            self._child.poll()  # one that ended is not to stay a zombie
        try:
            found = self._ask("show")
            if found["version"] != VERSION or found["listen"] != self._listen or not found["own"]:
                return None
            key, value = json.loads(found["own"])
            own = decode_lease(key, value.encode())
        except Fault:
            return None
        self._peers = tuple(Part(ip_network(subnet), ip_address(where)) for subnet, where in found["peers"].items())
        return own

    def peers(self) -> tuple[Part, ...]:
        """The peers it had when it was last asked what it serves."""
        return self._peers

    def mtu(self, counted: int) -> int:
        """That."""
        return counted

    async def start(self, own: Lease) -> None:
        """Have a relay for this lease of ours."""
        await self._have_relay()
        self._ask("start", own=json.dumps([own.key, encode_lease(own).decode()]), listen=self._listen)

    async def _have_relay(self) -> None:
        try:
            found = self._ask("show")
        except Fault:
            await self._spawn()
            return
        if found["version"] != VERSION:
            log.info("the relay of %s is another version's: replacing it", self._device)
            self._ask("stop")
            self._hang_up()
            await self._spawn()

    async def _spawn(self) -> None:
        argv = [sys.executable, "-m", "flanneld_py.relay", self._device]
        self._child = subprocess.Popen(  # noqa: ASYNC220  a child of asyncio's would be killed with its loop
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        if not self._said:
            log.warning("udp: packets are carried by a Python program (process %d), which is slow: any other backend is faster",
                        self._child.pid)
            self._said = True
        deadline = asyncio.get_running_loop().time() + STARTUP
        while True:
            try:
                self._ask("show")
                return
            except Fault:
                if self._child.poll() is not None:
                    raise Unreachable(f"the relay of {self._device} ended at once, code {self._child.returncode}") from None
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(0.02)

    async def add(self, peer: Part) -> None:
        """Serve a peer."""
        self._ask("add", subnet=str(peer.subnet), to=str(peer.public_ip))

    async def remove(self, peer: Part) -> None:
        """Serve it no longer."""
        self._ask("remove", subnet=str(peer.subnet))

    async def close(self) -> None:
        """The relay goes on by itself."""
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection:
            asyncio.get_running_loop().remove_reader(self._connection)
            self._connection.close()
            self._connection = None

    def _ask(self, op: str, **order: Any) -> dict[str, Any]:
        """One order, one answer, in the microseconds a process beside us needs for it."""
        try:
            connection = self._connect()
            connection.sendall(json.dumps({"op": op, **order}).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                data = connection.recv(1 << 16)
                if not data:
                    raise ConnectionResetError("it hung up")
                answer += data
        except OSError as error:
            self._hang_up()
            raise Unreachable(f"the relay of {self._device}: {error}") from None
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise Invalid(f"the relay of {self._device}: {op}: {found['error']}")
        return found

    def _connect(self) -> socket.socket:
        if not self._connection:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            connection.settimeout(PATIENCE)
            try:
                connection.connect(control_address(self._device))
            except OSError:
                connection.close()
                raise
            asyncio.get_running_loop().add_reader(connection, self._gone)
            self._connection = connection
        return self._connection

    def _gone(self) -> None:
        """There is something to read that nobody asked for: the end."""
        self._hang_up()
        self._changed()
