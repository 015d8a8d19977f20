"""Following the way out while the daemon runs: the underlay's MTU and addresses, as they change.

A link or address that is gone is waited for, and looked for elsewhere, while everything stays as it is. What the agent
does with a new one: `flanneld_py/agent.py`. How one is chosen: `flanneld_py/iface.py`. Read next: those.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from flanneld_py.iface import Underlay
from nodecore.errors import Fault
from nodecore.kernel.ports import Host
from nodecore.loop.persist import Complaint

log = logging.getLogger(__name__)

CALM = 0.05  # seconds: an address is replaced in two steps
RETRY = 1.0


class WayOut:
    """The underlay in use; `look` says what it is now, `take` is called with a new one, `heard` at any news of it."""

    def __init__(
        self, host: Host, now: Underlay, look: Callable[[Underlay], Underlay],
        take: Callable[[Underlay], Awaitable[None]], heard: Callable[[], None],
    ) -> None:
        self._host, self._now, self._look, self._take, self._heard = host, now, look, take, heard
        self._news = asyncio.Event()
        self._complaint = Complaint(log, "the way out is lost, the network stays as it is")

    async def run(self) -> None:
        """Follow, for ever."""
        listener = self._start_listening()
        retry: float | None = None
        try:
            while True:
                await self._wait(retry)
                link = self._now.link
                retry = None if await self._follow() else RETRY
                if self._now.link != link:
                    listener.cancel()
                    listener = self._start_listening()
                elif listener.done():
                    listener.result()
        finally:
            listener.cancel()

    def _start_listening(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self._listen(self._now.link), name="news of the way out")
        task.add_done_callback(lambda _: self._news.set())
        return task

    async def _listen(self, link: str) -> None:
        async for _ in self._host.changes(link):
            self._news.set()

    async def _wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
        await asyncio.sleep(CALM)
        self._news.clear()
        self._heard()

    async def _follow(self) -> bool:
        try:
            found = self._look(self._now)
            if found != self._now:
                await self._take(found)
                self._now = found
        except Fault as fault:
            self._complaint.tell(fault)
            return False
        self._complaint.settle()
        return True
