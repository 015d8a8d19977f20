"""One HTTP/2 connection (RFC 9113) as a client: frames out of bytes, windows, pings, and the streams on it.

What a turn of the loop sends goes out in one piece. While calls are open and nothing comes for a while the other side is pinged;
if it does not answer, or acknowledges nothing for as long, the connection is given up with all its calls.
Must not know: what the calls mean. Read next: `stream.py`, `channel.py`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import cast

from nodecore.rpc import hpack
from nodecore.rpc.errors import NOT_PROCESSED, RpcError, of_reset
from nodecore.rpc.stream import WINDOW, Stream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
CANCEL = 8
LARGEST_FRAME = 16384
LARGEST_BLOCK = 1 << 16
FIRST_WINDOW = 65535
ALL_STREAMS = 1 << 24  # the window of the whole connection
PING_AFTER, PING_TIMEOUT = 6.0, 3.0  # etcd closes connections that ping more often than every 5 s
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 0x1, 0x2, 0x3, 0x4, 0x5
OURS = struct.pack(">HIHIHI", HEADER_TABLE_SIZE, 0, ENABLE_PUSH, 0, INITIAL_WINDOW, WINDOW)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


class Connection(asyncio.Protocol):
    """Usable from the moment it is connected until `closing`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, largest: int, *, pings: bool) -> None:
        self._loop, self._largest, self._pings = loop, largest, pings
        self.closing = False  # takes no new calls
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._window, self._stream_window, self._frame_size = FIRST_WINDOW, FIRST_WINDOW, LARGEST_FRAME
        self._most = 1 << 31
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._blocked: dict[int, Stream] = {}
        self._untold = 0
        self._rest = b""
        self._block: tuple[int, int, bytes] | None = None
        self._out: list[bytes] = []
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:  # what is not even acknowledged: our address has gone, say
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(PING_TIMEOUT * 1000))
        more = struct.pack(">I", ALL_STREAMS - FIRST_WINDOW)
        self._send(PREFACE + frame(SETTINGS, 0, 0, OURS) + frame(WINDOW_UPDATE, 0, 0, more))

    def connection_lost(self, exc: Exception | None) -> None:
        """Every call fails."""
        self._give_up(f"the connection was lost{f': {exc}' if exc else ''}")

    def close(self, why: str = "the connection was closed") -> None:
        """Close it; calls under way end with an error."""
        self._give_up(why)
        if self._transport:
            self._transport.abort()

    def _give_up(self, why: str) -> None:
        self.closing = True
        streams, self._streams, self._blocked = list(self._streams.values()), {}, {}
        for stream in streams:
            stream.fail(RpcError("UNAVAILABLE", why))
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if self._timer:
            self._timer.cancel()
            self._timer = None

    @property
    def full(self) -> bool:
        """Whether the other side takes no more streams for now."""
        return len(self._streams) >= self._most and not self.closing

    async def room(self) -> None:
        """Wait until it takes one more."""
        while self.full:
            waiter = self._loop.create_future()
            self._waiting.append(waiter)
            await waiter

    def open(self, head: bytes) -> Stream:
        """A new stream with these header fields."""
        if self.closing:
            raise RpcError("UNAVAILABLE", NOT_PROCESSED)
        number, self._next = self._next, self._next + 2
        if number > 1 << 30:
            self.closing = True
        stream = self._streams[number] = Stream(self._loop, number, self._stream_window, self._largest)
        self._send(frame(HEADERS, END_HEADERS, number, head))
        if self._pings and self._timer is None:
            self._heard = self._loop.time()
            self._timer = self._loop.call_later(PING_AFTER, self._look)
        return stream

    def send(self, stream: Stream, message: bytes, *, last: bool = False) -> None:
        """A message, or as much of it as the windows allow for now."""
        stream.outgoing += struct.pack(">BI", 0, len(message)) + message
        stream.last = last
        self._push(stream)

    def drop(self, stream: Stream) -> None:
        """Nobody waits for this one any more."""
        if self._streams.pop(stream.number, None) is not None:
            self._send(frame(RESET, 0, stream.number, struct.pack(">I", CANCEL)))
            self._blocked.pop(stream.number, None)
            self._free()

    def _free(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break
        if self.closing and not self._streams and self._transport:
            self._transport.close()

    def _push(self, stream: Stream) -> None:
        data, number = stream.outgoing, stream.number
        at, size = 0, len(data)
        while at < size:
            room = min(self._window, stream.window, self._frame_size, size - at)
            if room <= 0:
                self._blocked[number] = stream
                break
            self._window -= room
            stream.window -= room
            last = stream.last and at + room == size
            self._send(frame(DATA, END_STREAM if last else 0, number, data[at:at + room]))
            at += room
        else:
            self._blocked.pop(number, None)
        stream.outgoing = data[at:]

    def _send(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = b"".join(self._out), []
        if self._transport and not self._transport.is_closing():
            self._transport.write(out)

    def _look(self) -> None:
        """Nothing heard for a while: ask whether anybody is there."""
        self._timer = None
        if not self._streams:
            return
        left = self._heard + PING_AFTER - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
            return
        self._send(frame(PING, 0, 0, bytes(8)))
        self._timer = self._loop.call_later(PING_TIMEOUT, self._judge, self._heard)

    def _judge(self, heard: float) -> None:
        self._timer = None
        if self._heard == heard:
            self.close("nobody answers")
        else:
            self._look()

    def data_received(self, data: bytes) -> None:
        """Take the frames in."""
        self._heard = self._loop.time()
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        try:
            while size - at >= 9:
                length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
                if length > LARGEST_FRAME:
                    raise hpack.Unreadable("a frame that is too large")
                stop = at + 9 + length
                if stop > size:
                    break
                stream = int.from_bytes(data[at + 5:at + 9], "big") & 0x7FFFFFFF
                self._take(data[at + 3], data[at + 4], stream, data[at + 9:stop])
                at = stop
        except (hpack.Unreadable, struct.error, IndexError) as error:
            return self.close(f"what came is no HTTP/2: {error}")
        self._rest = data[at:]

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and kind != CONTINUATION:
            raise hpack.Unreadable("a header block is cut off")
        if kind == DATA:
            self._data(flags, number, payload)
        elif kind == HEADERS:
            if flags & PADDED:
                payload = payload[1:len(payload) - payload[0]]
            self._headers(flags, number, flags, payload[5:] if flags & PRIORITY else payload)
        elif kind == CONTINUATION:
            if self._block is None or self._block[0] != number:
                raise hpack.Unreadable("a header block without its beginning")
            _, first, before = self._block
            self._headers(flags, number, first, before + payload)
        elif kind == WINDOW_UPDATE:
            self._windows(number, struct.unpack(">I", payload)[0] & 0x7FFFFFFF)
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self._send(frame(PING, ACK, 0, payload))
        elif kind == RESET:
            self._end(number, of_reset(struct.unpack(">I", payload)[0]), reset=True)
        elif kind == GOAWAY:
            self._leave(*struct.unpack(">II", payload[:8]))

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        self._untold += len(payload)
        if self._untold > ALL_STREAMS // 2:
            self._send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._untold)))
            self._untold = 0
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.untold += len(payload)
        stream.take(payload[1:len(payload) - payload[0]] if flags & PADDED else payload)
        if flags & END_STREAM:
            self._end(number, RpcError("INTERNAL", "the answer ended without a status"))
        elif stream.ended:
            self.drop(stream)
        elif stream.untold > WINDOW // 2:
            self.taken(stream)

    def taken(self, stream: Stream) -> None:
        """Unless many messages wait to be taken, the other side may send as much as it has sent once more."""
        if stream.untold > WINDOW // 2 and stream.queued < WINDOW and stream.number in self._streams:
            self._send(frame(WINDOW_UPDATE, 0, stream.number, struct.pack(">I", stream.untold)))
            stream.untold = 0

    def _headers(self, flags: int, number: int, first: int, block: bytes) -> None:
        if len(block) > LARGEST_BLOCK:
            raise hpack.Unreadable("a header block that is too large")
        if not flags & END_HEADERS:
            self._block = number, first, block
            return
        self._block = None
        fields = hpack.read(block)
        stream = self._streams.get(number)
        if stream is None:
            return
        if first & END_STREAM:
            stream.finish(fields)
            self._end(number)
        elif fields.get(":status", "200") != "200":
            self._end(number, RpcError("UNAVAILABLE", f"no gRPC answer: HTTP status {fields[':status']}"))

    def _end(self, number: int, error: RpcError | None = None, *, reset: bool = False) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            if error:
                stream.fail(error)
            self._blocked.pop(number, None)
            if not reset and (stream.outgoing or not stream.last):
                self._send(frame(RESET, 0, number, struct.pack(">I", CANCEL)))
        self._free()

    def _windows(self, number: int, more: int) -> None:
        if number == 0:
            self._window += more
            for stream in list(self._blocked.values()):
                self._push(stream)
        elif number in self._streams:
            stream = self._streams[number]
            stream.window += more
            if stream.outgoing:
                self._push(stream)

    def _settings(self, payload: bytes) -> None:
        self._send(frame(SETTINGS, ACK, 0))  # before anything that goes by them: a larger window counts there from now on
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW:
                more, self._stream_window = value - self._stream_window, value
                for stream in list(self._streams.values()):
                    self._windows(stream.number, more)
            elif name == MAX_FRAME:
                self._frame_size = value
            elif name == MAX_STREAMS:
                self._most = max(1, value)

    def _leave(self, last: int, _error: int) -> None:
        """The other side takes no more calls, and those after `last` it has not looked at."""
        self.closing = True
        for number in [number for number in self._streams if number > last]:
            self._end(number, RpcError("UNAVAILABLE", NOT_PROCESSED))
        self._free()
