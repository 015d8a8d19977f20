"""The connections of clients, as aiohttp keeps them, but for what becomes of a request that is none: a Status, and a plain line.

Whoever sends noise is told 400 and cut off. The log has a line for the first such, and then at most one a while that counts the
others: no traceback, as nothing is wrong with this server.
Must not know: what requests mean. Read next: `handler.py`, which answers those that are some.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, cast

from minik8s.apiserver.request.call import JSON, Answer, refusal
from minik8s.apiserver.request.status import Refused, of
from nodecore.kube.http import aiohttp, web

log = logging.getLogger(__name__)
HEAD_LIMIT = 64 * 1024
KEPT_ALIVE = 120.0
PIECE = 256 * 1024
STUCK_SECONDS = 30.0
LINE_SECONDS, LONGEST = 10.0, 200
NOISE = (aiohttp.http.HttpProcessingError, web.PayloadAccessError, aiohttp.ClientError, OSError)


class Noise:
    """What is said in the log of requests that are none."""

    def __init__(self) -> None:
        self._next = 0.0
        self._unsaid = 0

    def heard(self, remote: str | None, what: str) -> None:
        """Say so, or only count it."""
        now = time.monotonic()
        if now < self._next:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more such before)" if self._unsaid else ""
        log.info("no request from %s: %s%s", remote or "an unknown address", what, more)
        self._next, self._unsaid = now + LINE_SECONDS, 0


noise = Noise()
NO_HEADERS, NO_URL = web.StreamResponse().headers, aiohttp.web_protocol.ERROR.url


class Few(list[Any]):
    """A queue that is nearly always empty: an empty deque is ten times as large."""

    __slots__ = ()

    def popleft(self) -> Any:
        """The oldest."""
        return self.pop(0)


class Connection(web.RequestHandler):
    """One of them."""

    __slots__ = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._messages: Any = Few()

    def handle_error(self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None,
                     message: str | None = None) -> web.StreamResponse:
        """The answer to what could not be read, or to what went wrong outside the handler; the connection ends with it."""
        if status < 500:
            refused = Refused(status, f"the request could not be read: {plain(message or str(exc))}")
            noise.heard(request.remote, str(refused))
        else:
            refused = of(exc or RuntimeError())
            log.error("answering %s", request.remote, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        response = respond(refusal(refused))
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """What ended a connection; a peer that breaks off or sends noise is no fault of ours."""
        error = kw.get("exc_info")
        if isinstance(error, NOISE):
            noise.heard(str((self.peername or "?")[0]), plain(str(error)))
        else:
            super().log_exception(*args, **kw)


class Connections(web.Server):
    """All of them; `handler` answers their requests."""

    def __init__(self, handler: Any) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._options: dict[str, Any] = {
            "access_log": None, "max_line_size": HEAD_LIMIT, "max_field_size": HEAD_LIMIT, "keepalive_timeout": KEPT_ALIVE}

    def __call__(self) -> Connection:
        """A new one."""
        return Connection(self, loop=self._loop, **self._options)


def plain(text: str) -> str:
    """The first line, as far as it is fit to be shown."""
    first = (text.splitlines() or [""])[0][:LONGEST]
    return "".join(letter if letter.isprintable() else "?" for letter in first)


class Long(web.StreamResponse):
    """A list, sent piece by piece as the client takes it; one that takes nothing for a while is cut off."""

    def __init__(self, answer: Answer, size: int, headers: Mapping[str, str]) -> None:
        super().__init__(status=answer.status, headers=headers)
        self.content_length = size
        self._answer = answer

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Begin, for whom the rest is meant for."""
        self._transport = request.transport
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send it; others are served meanwhile."""
        for piece in self._answer.pieces(PIECE):
            try:
                async with asyncio.timeout(STUCK_SECONDS):
                    await self.write(piece)
            except TimeoutError:
                if self._transport:
                    self._transport.abort()
                raise ConnectionAbortedError(f"the client took nothing for {STUCK_SECONDS:g} s") from None
            await asyncio.sleep(0)
        await super().write_eof()


def forget_heads(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Drop what was said at the beginning of a stream that may last for hours: 2 kB of it."""
    asked, answered = cast("Any", request), cast("Any", response)
    asked._message = asked._message._replace(headers=NO_HEADERS, raw_headers=(), url=NO_URL)
    asked._headers, asked._rel_url, answered._headers = NO_HEADERS, NO_URL, NO_HEADERS


def respond(answer: Answer, *, whole: bool = True) -> web.StreamResponse:
    """An answer as a response; in one piece if need be."""
    headers = {"Content-Type": answer.content or JSON, "Cache-Control": "no-cache, private", **answer.headers}
    size = answer.size
    if size > PIECE and not whole:
        return Long(answer, size, headers)
    return web.Response(status=answer.status, body=b"".join(answer.pieces(size)), headers=headers)
