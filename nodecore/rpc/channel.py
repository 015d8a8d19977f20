"""Calls of one server: connects when there is something to call, and anew after a connection was lost.

    channel = Channel("127.0.0.1:2379")
    one = channel.unary(method);   reply = await one(request, timeout=5, metadata=(("token", "..."),))
    many = channel.stream(method); call = many(); await call.write(request); reply = await call.read(); call.cancel()

Calls do not wait for a server that cannot be reached: they fail with UNAVAILABLE, and the next one tries to connect again.
Raises only RpcError. Must not know: what the calls mean. Read next: `connection.py`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from nodecore.rpc import hpack
from nodecore.rpc.connection import Connection
from nodecore.rpc.errors import RpcError
from nodecore.rpc.stream import Stream

CONNECT_SECONDS = 2.0
UNIX = "unix:"
HEADS = 64
Metadata = tuple[tuple[str, str], ...]
Unary = Callable[..., Awaitable[Any]]


class Method(Protocol):
    """What must be known of a method."""

    @property
    def path(self) -> str:
        """`/PACKAGE.SERVICE/METHOD`."""

    @property
    def response(self) -> Any:
        """The class of its answers."""


class Channel:
    """One address: `HOST:PORT`, or `unix:PATH`; `tls` makes the context of each connection. Of one event loop."""

    def __init__(self, address: str, tls: Callable[[], ssl.SSLContext] | None = None, *, largest: int = 0,
                 pings: bool = True) -> None:
        self._address, self._tls, self._largest, self._pings = address, tls, largest, pings
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._closed = False
        self._heads: dict[tuple[str, Metadata], bytes] = {}

    async def close(self) -> None:
        """Close the connection; calls under way end with an error."""
        self._closed = True
        if self._connecting:
            self._connecting.cancel()
        if self._connection:
            self._connection.close("the channel was closed")
            self._connection = None

    def unary(self, method: Method) -> Unary:
        """A method with one request and one answer."""
        path, parse = method.path, method.response.FromString

        async def call(request: Any, *, timeout: float | None = None, metadata: Metadata = ()) -> Any:
            loop = asyncio.get_running_loop()
            ends = None if timeout is None else loop.time() + timeout
            connection = await self._connected(ends)
            head = self._head(path, metadata)
            if ends is not None:
                head += hpack.literal("grpc-timeout", f"{max(1, int((ends - loop.time()) * 1000))}m")
            stream = connection.open(head)
            timer = loop.call_at(ends, _expire, stream) if ends is not None else None
            try:
                connection.send(stream, request.SerializeToString(), last=True)
                return parse(await stream.whole())
            finally:
                if timer:
                    timer.cancel()
                connection.drop(stream)

        return call

    def stream(self, method: Method) -> Callable[..., Call]:
        """A method where either side may send more than one."""
        def call(*, metadata: Metadata = ()) -> Call:
            return Call(self, method, metadata)

        return call

    async def _connected(self, ends: float | None) -> Connection:
        connection = self._connection
        try:
            while connection is None or connection.closing or connection.full:
                async with asyncio.timeout_at(ends):
                    if connection is None or connection.closing:
                        connection = await self._connect()
                    await connection.room()
        except TimeoutError:
            raise _late() from None
        return connection

    async def _connect(self) -> Connection:
        """All who come while a connection is being made share it."""
        if self._closed:
            raise RpcError("CANCELLED", "the channel was closed")
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._dial(), name=f"connect to {self._address}")
            self._connecting.add_done_callback(self._dialled)
        task = self._connecting
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise RpcError("CANCELLED", "the channel was closed") from None
            raise

    def _dialled(self, task: asyncio.Task[Connection]) -> None:
        self._connecting = None
        if not task.cancelled() and not task.exception():
            self._connection = task.result()

    async def _dial(self) -> Connection:
        loop = asyncio.get_running_loop()

        def protocol() -> Connection:
            return Connection(loop, self._largest, pings=self._pings)

        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if self._address.startswith(UNIX):
                    _, made = await loop.create_unix_connection(protocol, self._address.removeprefix(UNIX).removeprefix("//"))
                    return made
                host, _, port = self._address.rpartition(":")
                host = host.strip("[]")
                tls = self._tls() if self._tls else None
                _, made = await loop.create_connection(protocol, host, int(port), ssl=tls, server_hostname=host if tls else None)
                return made
        except (OSError, TimeoutError, ssl.CertificateError) as error:
            known = isinstance(error, ConnectionError) and error.errno
            why = os.strerror(known).lower() if known else str(error) or "no answer in time"
            raise RpcError("UNAVAILABLE", f"failed to connect: {why}") from None

    def _head(self, path: str, metadata: Metadata) -> bytes:
        found = self._heads.get((path, metadata))
        if found is None:
            fields = (
                (":method", "POST"), (":scheme", "https" if self._tls else "http"), (":path", path),
                (":authority", "localhost" if self._address.startswith(UNIX) else self._address), ("te", "trailers"),
                ("content-type", "application/grpc"), ("user-agent", "flanneld-py"), *metadata)
            if len(self._heads) >= HEADS:
                self._heads.clear()
            found = self._heads[path, metadata] = b"".join(hpack.literal(*field) for field in fields)
        return found

    async def begin(self, path: str, metadata: Metadata) -> tuple[Connection, Stream]:
        """A stream of its own."""
        connection = await self._connected(None)
        return connection, connection.open(self._head(path, metadata))


class Call:
    """A stream of messages in both directions."""

    def __init__(self, channel: Channel, method: Method, metadata: Metadata) -> None:
        self._channel, self._method, self._metadata = channel, method, metadata
        self._open: tuple[Connection, Stream] | None = None

    async def write(self, request: Any) -> None:
        """Send one message."""
        if self._open is None:
            self._open = await self._channel.begin(self._method.path, self._metadata)
        connection, stream = self._open
        if stream.error:
            raise stream.error
        connection.send(stream, request.SerializeToString())

    async def read(self) -> Any:
        """The next message; None once the other side has ended well. Cancelling a wait loses nothing."""
        if self._open is None:
            raise RpcError("INTERNAL", "nothing was asked yet")
        connection, stream = self._open
        message = await stream.next()
        if message is None:
            return None
        connection.taken(stream)
        return self._method.response.FromString(message)

    def cancel(self) -> None:
        """Give it back."""
        if self._open:
            connection, stream = self._open
            connection.drop(stream)
            stream.fail(RpcError("CANCELLED", "cancelled here"))


def _expire(stream: Stream) -> None:
    stream.fail(_late())


def _late() -> RpcError:
    return RpcError("DEADLINE_EXCEEDED", "deadline exceeded")
