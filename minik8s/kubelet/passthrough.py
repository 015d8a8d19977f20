"""Hands an upgrade request and its connection over to the runtime's streaming server, byte for byte.

    API server --TLS--> aiohttp (reads the request head) ... from here on ours ... --TCP--> containerd on 127.0.0.1

The request head is written anew with the path the runtime gave; its answer (`101 Switching Protocols` or a refusal) and all that
follows, WebSocket frames or SPDY streams, are copied both ways and never looked at. Taking the connection over needs three steps
aiohttp has no name for, all of them here: the transport gets another protocol, aiohttp is told that its connection is lost so
that it lets go of it, and the response it is given writes nothing.

Must not know: exec, attach, port-forward. Read next: `minik8s/kubelet/server.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast
from urllib.parse import urlsplit

from nodecore.errors import Unreachable
from nodecore.kube.http import web

PASSED_ON = ("Connection", "Upgrade", "X-Stream-Protocol-Version", "Sec-WebSocket-Key", "Sec-WebSocket-Version",
             "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Origin")
CHUNK = 64 * 1024


class Taken(web.StreamResponse):
    """The response of a connection that is no longer HTTP: aiohttp writes nothing for it."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Send no head."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send no end."""


async def pass_through(request: web.Request, url: str) -> web.StreamResponse:
    """Connect the client of an upgrade request with `url` until either side ends."""
    target = urlsplit(url)
    host, port = target.hostname or "127.0.0.1", target.port or 80
    try:
        there_in, there_out = await asyncio.open_connection(host, port)
    except OSError as error:
        raise Unreachable(f"streaming server {host}:{port}: {error.strerror}") from None
    there_out.write(_head(request, f"{host}:{port}", target.path + (f"?{target.query}" if target.query else "")))
    here_in, here_out = _take_over(request)
    directions = [asyncio.create_task(_copy(here_in, there_out)), asyncio.create_task(_copy(there_in, here_out))]
    try:
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in directions:
            task.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
        there_out.close()
        here_out.close()
        request.protocol.connection_lost(None)
    return Taken()


def _head(request: web.Request, host: str, path: str) -> bytes:
    lines = [f"{request.method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name in PASSED_ON for value in request.headers.getall(name, [])]
    if request.method == "POST":
        lines.append("Content-Length: 0")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _take_over(request: web.Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The client's connection as a pair of streams; what aiohttp has read beyond the head comes first."""
    transport = cast("asyncio.Transport", request.transport)
    reader = asyncio.StreamReader()
    early = getattr(request.protocol, "_message_tail", b"")
    if early:
        reader.feed_data(early)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()
    except OSError:
        return
