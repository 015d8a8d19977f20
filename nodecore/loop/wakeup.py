"""Waiting for "something has changed": each `wake` ends all waits begun before it.

No state is lost between looking and waiting as long as nothing is awaited in between. Read next: `reconcile.py`.
"""

from __future__ import annotations

import asyncio


class Wakeup:
    """Any number of waiters; costs nothing while there are none."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        """Wait for the next `wake`."""
        waiter = self.begin()
        try:
            await waiter
        finally:
            self.end(waiter)

    def begin(self) -> asyncio.Future[None]:
        """What `wait` awaits, for ten thousand who cannot afford a coroutine more; each must `end` it."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        return waiter

    def end(self, waiter: asyncio.Future[None]) -> None:
        """It is awaited no longer."""
        self._waiters.discard(waiter)

    def wake(self) -> None:
        """End all waits."""
        if self._waiters:
            waiters, self._waiters = self._waiters, set()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
