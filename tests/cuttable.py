"""A TCP forwarder on loopback whose connections a test can cut and let be made again.

    async with forwarder(server.client_port) as way:
        EtcdClient(EtcdConfig((f"http://127.0.0.1:{way.port}",)))
        way.cut(); ...; way.mend()
        way.pause(); ...; way.resume()                    # connections stay, but nothing gets through

`listen` is a listening socket, and `dial` makes a connected one, where either end is in another network namespace.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Forwarder:
    """Forwards `port` to `target` while not cut."""

    def __init__(self, target: int, dial: Callable[[], socket.socket] | None = None) -> None:
        self.target, self.port = target, 0
        self._dial = dial
        self._whole = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._whole = False
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self._whole = True

    def pause(self) -> None:
        """Let nothing through, and keep it."""
        self._flowing.clear()

    def resume(self) -> None:
        """What was kept, and all from now on."""
        self._flowing.set()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        try:
            there, back = await self._open()
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, back}
        self._writers |= ends
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            self._writers -= ends

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._dial:
            return await asyncio.open_connection(sock=self._dial())
        return await asyncio.open_connection("127.0.0.1", self.target)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def forwarder(target: int, *, listen: socket.socket | None = None,
                    dial: Callable[[], socket.socket] | None = None) -> AsyncIterator[Forwarder]:
    made = Forwarder(target, dial)
    server = await asyncio.start_server(made.take, sock=listen or socket.create_server(("127.0.0.1", 0)))
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        made.cut()
        server.close()
