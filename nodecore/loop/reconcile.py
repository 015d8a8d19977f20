"""The one loop of every agent: make the world match a snapshot of what is wanted.

    wait until every input is synced
    -> wait for dirty, or the resync period; then the minimum interval, so that a burst is one batch
    -> desired -> observe -> plan -> apply -> (verify) -> healthy
    on failure: stay dirty, forget what was cached, back off with jitter; after a few, unhealthy; never exit
    whoever is in a hurry waits for neither interval nor back-off, only as long as the last pass worked

Events only call `mark()`: a lost or doubled one costs nothing. What is decided lives in the `Target`'s pure
`desired` and `plan`; the only writer is its `apply`.

Must not know: what is reconciled. Read next: `nodecore/loop/supervise.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from nodecore.errors import Fault, leaves
from nodecore.loop.backoff import Backoff
from nodecore.loop.clock import Clock, SystemClock

log = logging.getLogger(__name__)

Wanted = TypeVar("Wanted")
Actual = TypeVar("Actual")
OpT = TypeVar("OpT", bound="Op")


class Op(Protocol):
    """One write, as a value that can say what it is."""

    def describe(self) -> str:
        """The words `--dry-run` prints and the log writes."""
        ...


class Target(Protocol[Wanted, Actual, OpT]):
    """What an agent brings: where it looks, what it wants, how it writes."""

    def synced(self) -> bool:
        """Whether every input has been read once; no write happens before."""
        ...

    def desired(self) -> Wanted:
        """What the inputs ask for: pure, total, sorted."""
        ...

    async def observe(self, wanted: Wanted) -> Actual:
        """What is there now, of what this agent owns."""
        ...

    def plan(self, actual: Actual, wanted: Wanted) -> Sequence[OpT]:
        """The ordered writes from `actual` to `wanted`: pure."""
        ...

    async def apply(self, ops: Sequence[OpT]) -> None:
        """Write them all, going on past independent failures, which are raised together."""
        ...

    def forget(self) -> None:
        """Drop any cached actual state: the next observe reads everything."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass did: its writes, how long it took in seconds, and the error that ended it, if one did."""

    ops: tuple[Op, ...]
    seconds: float
    error: BaseException | None = None


@dataclass(slots=True)
class Condition:
    """How a reconciler is: read by health checks and metrics."""

    synced_once: bool = False
    failures: int = 0
    last_success: float = 0.0
    last_error: str = ""


@dataclass
class Reconciler:
    """Runs a `Target` for ever; times are in seconds."""

    name: str
    target: Target  # type: ignore[type-arg]
    resync: float = 30.0
    min_interval: float = 0.0
    unhealthy_after: int = 3
    stuck_after: float = 60.0
    verify: bool = False
    backoff: Backoff = field(default_factory=Backoff)
    clock: Clock = field(default_factory=SystemClock)
    on_outcome: Callable[[Outcome], None] | None = None
    condition: Condition = field(default_factory=Condition)
    _dirty: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _hurried: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _turned: float | None = field(default=None, repr=False)

    def mark(self) -> None:
        """Something may have changed: look again."""
        self._dirty.set()

    def hurry(self) -> None:
        """What was written is damaged, or what made the last pass fail may be mended: look again without waiting that out."""
        self._hurried.set()
        self.mark()

    @property
    def healthy(self) -> bool:
        """Whether the world was made to match at least once and has not been failing since."""
        return self.condition.synced_once and self.condition.failures < self.unhealthy_after

    @property
    def alive(self) -> bool:
        """Whether the loop still turns, for a watchdog: a pass that fails is tried again, one that hangs never ends."""
        return self._turned is None or self.clock.now() - self._turned <= self.resync + self.stuck_after

    async def run(self) -> None:
        """Reconcile until cancelled."""
        last, worked = -self.min_interval, 0.0
        wait = 0.0
        while True:
            self._turned = self.clock.now()
            if wait:
                self._hurried.clear()
                await self._unless_hurried(wait)
            elif self.condition.synced_once:
                await self._until_dirty()
            await self.clock.sleep(last + min(worked, self.min_interval) - self.clock.now())
            await self._unless_hurried(last + self.min_interval - self.clock.now())
            while not self.target.synced():
                self._turned = self.clock.now()
                self._dirty.clear()
                await self._until_dirty()
            self._dirty.clear()
            self._hurried.clear()
            outcome = await self.once()
            last, worked = self.clock.now(), outcome.seconds
            wait = self.backoff.next() if outcome.error else 0.0
            if not outcome.error:
                self.backoff.reset()

    async def _unless_hurried(self, seconds: float) -> None:
        if seconds <= 0 or self._hurried.is_set():
            return
        waits = [asyncio.ensure_future(self.clock.sleep(seconds)), asyncio.ensure_future(self._hurried.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _until_dirty(self) -> None:
        try:
            async with asyncio.timeout(self.resync):
                await self._dirty.wait()
        except TimeoutError:
            pass

    async def once(self) -> Outcome:
        """One pass, its error caught, told and counted."""
        start = self.clock.now()
        ops: Sequence[Op] = ()
        error: BaseException | None = None
        try:
            ops = await self._pass()
        except Exception as caught:
            error = caught
            self._failed(caught)
        else:
            self._succeeded()
        outcome = Outcome(tuple(ops), self.clock.now() - start, error)
        if self.on_outcome:
            self.on_outcome(outcome)
        return outcome

    async def _pass(self) -> Sequence[Op]:
        wanted = self.target.desired()
        actual = await self.target.observe(wanted)
        ops = self.target.plan(actual, wanted)
        if not ops:
            return ops
        for op in ops[:50]:
            log.debug("%s: %s", self.name, op.describe())
        await self.target.apply(ops)
        log.info("%s: applied %d change%s, first: %s", self.name, len(ops), "s"[: len(ops) > 1], ops[0].describe())
        if self.verify:
            left = self.target.plan(await self.target.observe(wanted), wanted)
            for op in left[:10]:
                log.warning("%s: still differs after apply: %s", self.name, op.describe())
        return ops

    def _succeeded(self) -> None:
        if self.condition.failures:
            log.info("%s: works again after %d failures", self.name, self.condition.failures)
        self.condition.synced_once = True
        self.condition.failures = 0
        self.condition.last_error = ""
        self.condition.last_success = self.clock.now()

    def _failed(self, error: Exception) -> None:
        self.target.forget()
        self.condition.failures += 1
        self.condition.last_error = describe_error(error)
        understood = all(isinstance(leaf, Fault) for leaf in leaves(error))
        log.error(
            "%s: pass failed (%d in a row): %s", self.name, self.condition.failures, self.condition.last_error,
            exc_info=None if understood else error,
        )


def describe_error(error: BaseException) -> str:
    """One line for an error or a group of them."""
    found = leaves(error)
    text = "; ".join(str(leaf) or type(leaf).__name__ for leaf in found[:3])
    return text + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
