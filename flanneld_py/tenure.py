"""Keeping our lease: renew it in time, notice when it is gone, take it back without touching the network.

Go flanneld ends when its lease is revoked. Here the data path stays as it is, the lease is acquired again (the same
subnet, if nobody took it meanwhile), and the event is told: in the log, in a metric, and by the herald. A lease that has
our address and other data is of another node with the same address: the two do not run in a circle over it, they take turns
ever more slowly and say what is wrong.

Must not know: etcd, the kernel. Read next: `flanneld_py/store/port.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from flanneld_py import metrics
from flanneld_py.alloc import is_ours
from flanneld_py.lease import Lease
from flanneld_py.store.port import UP, Held, LeaseStore, Snapshot, Standing, Wish
from nodecore.errors import Fault, NotFound
from nodecore.loop.backoff import Backoff
from nodecore.loop.persist import Complaint, persist

log = logging.getLogger(__name__)

RETRY = 60.0
CALM = 120.0  # seconds: a lease lost again sooner is being fought over


class Tenure:
    """The lease we hold; `changed` is called when it became another one, `tell` when the node's standing did."""

    def __init__(self, store: LeaseStore, wish: Wish, margin: float, changed: Callable[[], None],
                 tell: Callable[[Standing], None] = lambda standing: None) -> None:
        self._store, self._wish, self._margin, self._changed, self._tell = store, wish, margin, changed, tell
        self._held: Held | None = None
        self._lost = asyncio.Event()
        self._moving = False
        self._renew_at: float | None = None
        self._late = Complaint(log, "cannot renew our lease")
        self._taken_back = -CALM
        self._patience = Backoff(first=1.0, cap=RETRY)
        self.ends: float | None = None  # on the monotonic clock; None for a lease that does not end

    @property
    def lease(self) -> Lease:
        """The lease; only after `begin`."""
        assert self._held
        return self._held.lease

    async def begin(self) -> None:
        """Acquire it, however long that takes."""
        self._hold(await persist(self._acquire, "cannot acquire a lease", log=log))

    async def _acquire(self) -> Held:
        return await self._store.acquire(self._wish)

    def _hold(self, held: Held) -> None:
        self._held = held
        self._lost.clear()
        self._renewed(held)

    def _renewed(self, held: Held) -> None:
        delay = renewal_delay(held, self._margin)
        now = time.monotonic()
        self._renew_at = None if delay is None else now + delay
        self.ends = None if delay is None else now + held.seconds

    def move(self, wish: Wish) -> None:
        """Have our lease say what is wished now, and keep its subnet."""
        self._wish, self._moving = wish, True
        self._lost.set()

    def see(self, snapshot: Snapshot) -> None:
        """Look at all leases: is ours still there, and as we wrote it?"""
        held = self._held
        if not held or snapshot.revision <= held.revision:
            return
        there = snapshot.leases.get(held.lease.key)
        if there == held.lease or self._lost.is_set():
            return
        log.warning("our lease %s is gone: %s", held.lease.key, f"it is {there.describe()} now" if there else "revoked")
        if there and is_ours(there, self._wish.public):
            log.error("another node registers our address (%s) as its own: give each its own with --iface or --public-ip",
                      ", ".join(map(str, self._wish.public.values())))
        self._lost.set()

    async def run(self) -> None:
        """Renew and take back, for ever."""
        while True:
            assert self._held
            delay = None if self._renew_at is None else max(0.0, self._renew_at - time.monotonic())
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
            self._late.tell(fault)
            self._renew_at = time.monotonic() + min(RETRY, held.seconds / 10)
        else:
            log.info("renewed lease %s for %.0f s", held.lease.key, seconds)
            self._late.settle()
            self._held = replace(held, seconds=seconds)
            self._renewed(self._held)

    async def _take_back(self) -> None:
        moving, self._moving = self._moving, False
        before = self.lease
        if not moving:
            metrics.lease_lost()
            await self._calm_down()
        self._wish = replace(self._wish, previous=tuple(part.subnet for part in before.parts), held=before)
        trouble = "cannot take our lease back, the network stays as it is"
        self._hold(await persist(self._acquire, trouble, log=log, patient=True, on_trouble=self._told_lost))
        if self._moving:
            self._lost.set()
        if moving:
            log.info("our lease says now: %s", self.lease.describe())
        else:
            self._told_back(before)
        self._changed()

    def _told_back(self, before: Lease) -> None:
        self._taken_back = time.monotonic()
        if self.lease != before:
            log.warning("this node's lease was %s and is now %s: pods made before keep their old addresses",
                        before.describe(), self.lease.describe())
        self._tell(Standing(message=f"{UP}; its lease was lost and taken back: {self.lease.describe()}"))

    def _told_lost(self, fault: Fault) -> None:
        self._tell(Standing(False, "FlannelLeaseLost", f"The lease was lost and cannot be taken back: {fault}"))  # noqa: FBT003

    async def _calm_down(self) -> None:
        if time.monotonic() - self._taken_back > CALM:
            self._patience.reset()
        else:
            await asyncio.sleep(self._patience.next())


def renewal_delay(held: Held, margin: float) -> float | None:
    """Seconds until a lease is to be renewed, None for one that does not end."""
    if not held.handle:
        return None
    return held.seconds - margin if held.seconds > margin else held.seconds / 3
