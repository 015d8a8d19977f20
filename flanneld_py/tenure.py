"""Keeping our lease: renew it in time, notice when it is gone, take it back without touching the network.

Go flanneld ends when its lease is revoked. Here the data path stays as it is, the lease is acquired again (the same
subnet, if nobody took it meanwhile), and the reconciler is told.

Must not know: etcd, the kernel. Read next: `flanneld_py/store/port.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from flanneld_py.lease import Lease
from flanneld_py.store.port import Held, LeaseStore, Snapshot, Wish
from nodecore.errors import Blame, Fault, NotFound
from nodecore.loop.backoff import Backoff

log = logging.getLogger(__name__)

RETRY = 60.0


class Tenure:
    """The lease we hold; `changed` is called when it became another one."""

    def __init__(self, store: LeaseStore, wish: Wish, margin: float, changed: Callable[[], None]) -> None:
        self._store, self._wish, self._margin, self._changed = store, wish, margin, changed
        self._held: Held | None = None
        self._lost = asyncio.Event()

    @property
    def lease(self) -> Lease:
        """The lease; only after `begin`."""
        assert self._held
        return self._held.lease

    async def begin(self) -> None:
        """Acquire it, however long that takes."""
        backoff = Backoff(first=0.2, cap=5.0)
        while True:
            try:
                self._held = await self._store.acquire(self._wish)
                self._lost.clear()
                return
            except Fault as fault:
                if fault.blame is not Blame.ENVIRONMENT:
                    raise
                delay = backoff.next()
                log.error("cannot acquire a lease: %s; again in %.1f s", fault, delay)
                await asyncio.sleep(delay)

    def see(self, snapshot: Snapshot) -> None:
        """Look at all leases: is ours still there, and as we wrote it?"""
        held = self._held
        if not held or snapshot.revision <= held.revision:
            return
        there = snapshot.leases.get(held.lease.key)
        if there != held.lease and not self._lost.is_set():
            log.warning("our lease %s is gone: %s", held.lease.key, f"it is {there.describe()} now" if there else "revoked")
            self._lost.set()

    async def run(self) -> None:
        """Renew and take back, for ever."""
        while True:
            assert self._held
            delay = renewal_delay(self._held, self._margin)
            try:
                async with asyncio.timeout(delay):
                    await self._lost.wait()
            except TimeoutError:
                await self._renew(self._held)
            if self._lost.is_set():
                await self._take_back()

    async def _renew(self, held: Held) -> None:
        try:
            seconds = await self._store.renew(held)
        except NotFound:
            log.warning("our lease %s has ended", held.lease.key)
            self._lost.set()
        except Fault as fault:
            wait = min(RETRY, held.seconds / 10)
            log.error("cannot renew lease %s: %s; again in %.0f s", held.lease.key, fault, wait)
            await asyncio.sleep(wait)
        else:
            log.info("renewed lease %s for %.0f s", held.lease.key, seconds)

    async def _take_back(self) -> None:
        before = self.lease
        self._wish = replace(self._wish, previous=tuple(part.subnet for part in before.parts))
        await self.begin()
        if self.lease != before:
            log.warning("this node's lease was %s and is now %s: pods made before keep their old addresses",
                        before.describe(), self.lease.describe())
        self._changed()


def renewal_delay(held: Held, margin: float) -> float | None:
    """Seconds until a lease is to be renewed, None for one that does not end."""
    if not held.handle:
        return None
    return held.seconds - margin if held.seconds > margin else held.seconds / 3
