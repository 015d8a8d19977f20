"""One call's stream: what is yet to be sent within the other side's window, and the messages that came.

Must not know: sockets, how frames look. Read next: `connection.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from urllib.parse import unquote

from nodecore.rpc.errors import RpcError, of_status

WINDOW = 1 << 20
HEAD = 5  # bytes before each message: whether it is packed, and its length


class Stream:
    """What came and what is to go; it has ended when the other side or the connection says so, with an error or without."""

    __slots__ = ("_held", "_largest", "_loop", "_messages", "_next", "_waiter", "ended", "error", "last", "number", "outgoing",
                 "queued", "untold", "window")

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int, window: int, largest: int) -> None:
        self._loop, self.number, self.window, self._largest = loop, number, window, largest
        self.outgoing, self.last = b"", False  # nothing follows what is `outgoing`
        self.ended = False
        self.error: RpcError | None = None
        self.queued = self.untold = 0  # bytes of whole messages nobody took yet; bytes the other side may send anew
        self._held, self._next = bytearray(), 0  # what came of the next message, and its size with its head once that is known
        self._messages: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def take(self, data: bytes) -> None:
        """Some bytes came."""
        held = self._held
        held += data
        at, size = 0, len(held)
        while size - at >= max(HEAD, self._next):
            stop = at + HEAD + int.from_bytes(held[at + 1:at + HEAD], "big")
            self._next = stop - at
            if held[at] or (self._largest and self._next > self._largest):
                return self.fail(RpcError("RESOURCE_EXHAUSTED", "a message that is packed or too large"))
            if stop > size:
                break
            self._messages.append(bytes(held[at + HEAD:stop]))
            self.queued += stop - at
            at, self._next = stop, 0
        if at:
            del held[:at]
            self._wake()

    def finish(self, fields: dict[str, str]) -> None:
        """The other side has ended it, with these trailers."""
        status = fields.get("grpc-status")
        if status is None:
            self.fail(RpcError("UNAVAILABLE", f"no gRPC answer: HTTP status {fields.get(':status', 'unknown')}"))
        elif status != "0":
            self.fail(of_status(status, unquote(fields.get("grpc-message", ""))))
        else:
            self.ended = True
            self._wake()

    def fail(self, error: RpcError) -> None:
        """It has ended with an error, unless it had ended before."""
        if not self.ended:
            self.ended, self.error = True, error
            self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> bytes | None:
        """The next message; None at the end. Cancelling this loses nothing."""
        while not self._messages:
            if self.error:
                raise self.error
            if self.ended:
                return None
            self._waiter = self._loop.create_future()
            await self._waiter
        message = self._messages.popleft()
        self.queued -= len(message) + HEAD
        return message

    async def whole(self) -> bytes:
        """The only message, once the call has ended well."""
        while not self.ended:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self.error:
            raise self.error
        if len(self._messages) != 1:
            raise RpcError("INTERNAL", f"{len(self._messages)} messages where there should be one")
        return self._messages.popleft()
