"""Sharing one event loop: of what is much work, so many pieces are done in each of its rounds; the rest waits its turn.

Everything else is served meanwhile, and waits for no more than those few pieces. No time is lost: the loop never sleeps
while somebody waits here. Read next: `wakeup.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Rounds:
    """At most `most` turns in each round, first come first served."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._armed = False

    async def turn(self) -> None:
        """Wait for one; none is waited for where there is no crowd."""
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._next)
        if self._left and not self._waiting:
            self._left -= 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        await mine

    def _next(self) -> None:
        """A round is over."""
        self._left = self._most
        while self._left and self._waiting:
            first = self._waiting.popleft()
            if not first.done():  # else its task was cancelled
                first.set_result(None)
                self._left -= 1
        self._armed = self._left < self._most
        if self._armed:
            asyncio.get_running_loop().call_soon(self._next)
