"""kubectl's newer streams: WebSocket on the client's side, SPDY on the kubelet's, as every runtime speaks it.

    v5.channel.k8s.io              exec, attach    a message's first byte names its stream, 255 that one has ended: SPDY streams
    SPDY/3.1+portforward.k8s.io    portforward     SPDY in messages, unpacked and packed as it comes

Of SPDY this opens streams and reads what is sent on them. It compresses headers without SPDY's dictionary, which whoever
inflates them need not use, and does not read those that come back.
Must not know: where the kubelet is. Read next: `stream.py`.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from minik8s.apiserver.request.routes import truthy
from minik8s.apiserver.request.status import bad_request
from nodecore.kube.http import aiohttp, web

CHANNELS, TUNNEL = "v5.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"
PROTOCOLS = {"exec": CHANNELS, "attach": CHANNELS, "portforward": TUNNEL}
SPDY = {CHANNELS: "v4.channel.k8s.io", TUNNEL: "portforward.k8s.io"}  # what the kubelet is asked for instead
STDIN, STDOUT, STDERR, ERROR, RESIZE, ENDED = 0, 1, 2, 3, 4, 255
CONTROL, SYN_STREAM, PING, FIN = 0x8003, 1, 6, 1
CHUNK, LARGEST = 32 * 1024, 1 << 20


def newer(request: web.BaseRequest, subresource: str) -> str:
    """The protocol that has to be translated for the kubelet; empty for those it speaks itself."""
    known = PROTOCOLS.get(subresource, "")
    offered = {each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",")}
    return known if known in offered and request.headers.get("Upgrade", "").lower() == "websocket" else ""


async def translate(request: web.BaseRequest, protocol: str, reader: asyncio.StreamReader,
                    writer: asyncio.StreamWriter) -> web.StreamResponse:
    """Accept the WebSocket and carry it to the SPDY connection behind reader and writer, until either side ends."""
    ws = web.WebSocketResponse(protocols=(protocol,), compress=False, max_msg_size=LARGEST)
    try:
        await ws.prepare(request)
    except web.HTTPException as error:
        raise bad_request(error.text or "no WebSocket") from None
    if protocol == TUNNEL:
        await _both(_messages(ws, writer), _bytes(reader, ws))
    else:
        streams = Streams(wanted(request.query))
        writer.write(streams.opening)
        await ws.send_bytes(bytes([STDOUT if STDOUT in streams.channels.values() else ERROR]))  # as a sign that all is set up
        await _both(_upwards(ws, streams, writer), _downwards(ws, streams, reader, writer))
    await ws.close()
    return ws


def wanted(query: Mapping[str, str]) -> dict[int, str]:
    """The streams of an exec or attach, by channel."""
    tty = truthy(query.get("tty", ""))
    asked = ((ERROR, "error", True), (STDIN, "stdin", truthy(query.get("stdin", ""))),
             (STDOUT, "stdout", truthy(query.get("stdout", ""))),
             (STDERR, "stderr", truthy(query.get("stderr", "")) and not tty), (RESIZE, "resize", tty))
    return {channel: name for channel, name, there in asked if there}


class Streams:
    """The SPDY streams of one connection; ours have odd numbers."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._numbers = {channel: 2 * at + 1 for at, channel in enumerate(names)}
        self.channels = {number: channel for channel, number in self._numbers.items()}
        packed = zlib.compressobj()
        self.opening = b"".join(self._open(packed, number, names[channel]) for channel, number in self._numbers.items())

    def _open(self, packed: Any, number: int, name: str) -> bytes:
        pair = b"".join(struct.pack(">I", len(text)) + text for text in (b"streamtype", name.encode()))
        headers: bytes = packed.compress(struct.pack(">I", 1) + pair) + packed.flush(zlib.Z_SYNC_FLUSH)
        return struct.pack(">HHIIIH", CONTROL, SYN_STREAM, 10 + len(headers), number, 0, 0) + headers

    def sent(self, message: bytes) -> bytes:
        """The frame for a client's message; empty for one that means nothing."""
        channel, data, flags = message[0], message[1:], 0
        if channel == ENDED and data:
            channel, data, flags = data[0], b"", FIN
        if channel not in (STDIN, RESIZE) or channel not in self._numbers or not (data or flags):
            return b""
        return struct.pack(">II", self._numbers[channel], flags << 24 | len(data)) + data


async def _received(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[tuple[int, bytes]]:
    """What comes on which SPDY stream."""
    while head := await reader.read(1):
        word, length = struct.unpack(">II", head + await reader.readexactly(7))
        length &= 0xFFFFFF
        if word >> 31:
            if length > LARGEST:
                return
            body = await reader.readexactly(length)
            if word & 0xFFFF == PING:
                writer.write(struct.pack(">II", word, length) + body)
            continue
        while length:
            data = await reader.read(min(length, CHUNK))
            if not data:
                return
            length -= len(data)
            yield word, data


async def _heard(ws: web.WebSocketResponse) -> AsyncIterator[bytes]:
    """What comes in messages, as bytes or (Python's client sends what is text so) as text."""
    async for message in ws:
        if message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT) and message.data:
            yield message.data if isinstance(message.data, bytes) else message.data.encode()


async def _upwards(ws: web.WebSocketResponse, streams: Streams, writer: asyncio.StreamWriter) -> None:
    async for data in _heard(ws):
        writer.write(streams.sent(data))
        await writer.drain()


async def _downwards(ws: web.WebSocketResponse, streams: Streams, reader: asyncio.StreamReader,
                     writer: asyncio.StreamWriter) -> None:
    async for number, data in _received(reader, writer):
        if number in streams.channels:
            await ws.send_bytes(bytes([streams.channels[number]]) + data)


async def _messages(ws: web.WebSocketResponse, writer: asyncio.StreamWriter) -> None:
    async for data in _heard(ws):
        writer.write(data)
        await writer.drain()


async def _bytes(reader: asyncio.StreamReader, ws: web.WebSocketResponse) -> None:
    while data := await reader.read(CHUNK):
        await ws.send_bytes(data)


async def _both(*ways: Coroutine[Any, Any, None]) -> None:
    """Go both ways until one ends, or breaks off."""
    tasks = [asyncio.create_task(way, name="stream") for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, (OSError, EOFError)):
                raise result
