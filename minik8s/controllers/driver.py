"""Runs any controller: which keys are dirty, what their plan says, when to look again.

A controller brings a name, listeners that turn a change into keys, and a pure `plan(world, key, now)`. `KeyedTarget` makes it
a `Target` of the one reconcile loop: desired = the dirty keys, observe = settle lost answers, plan = each key's ops, apply =
the writer. A key that fails waits alone with its own back-off; only an API that is away stops the whole controller.

Must not know: what any controller is for. Read next: `minik8s/controllers/replicaset.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from nodecore.errors import AlreadyExists, Busy, Conflict, Fault, NotFound, Unreachable, leaves
from nodecore.loop.backoff import Backoff
from nodecore.loop.reconcile import Reconciler, describe_error

from .ops import Op, Plan
from .writer import Writer

log = logging.getLogger(__name__)
STALE = (Conflict, NotFound, AlreadyExists)


class Controller(Protocol):
    """What there is to know about one controller."""

    name: str

    def listen(self, mark: Callable[[str], None]) -> None:
        """Ask the collections to say when a key of ours must be looked at."""
        ...

    def plan(self, key: str, now: float) -> Plan:
        """What to write for a key: pure, of what the collections hold."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One op of one key."""

    key: str
    op: Op

    def describe(self) -> str:
        """The op's words."""
        return self.op.describe()


class KeyedTarget:
    """A controller as the reconcile loop's target."""

    def __init__(self, controller: Controller, writer: Writer, synced: Callable[[], bool]) -> None:
        self.controller, self.writer, self._all_synced = controller, writer, synced
        self.wake: Callable[[], None] = lambda: None
        self._dirty: set[str] = set()
        self._taken: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._backoffs: dict[str, Backoff] = {}

    def mark(self, key: str) -> None:
        """This key must be looked at."""
        if key not in self._dirty:
            self._dirty.add(key)
            self.wake()

    def synced(self) -> bool:
        """Whether every collection has been read once."""
        return self._all_synced()

    def desired(self) -> tuple[str, ...]:
        """The keys to look at now."""
        self._taken, self._dirty = self._dirty, set()
        return tuple(sorted(self._taken))

    async def observe(self, wanted: tuple[str, ...]) -> None:
        """Nothing but the answers that were lost: the collections are the observation."""
        if wanted:
            await self.writer.settle()

    def plan(self, actual: None, wanted: tuple[str, ...]) -> Sequence[Step]:
        """Every key's ops."""
        steps: list[Step] = []
        for key in wanted:
            try:
                plan = self.controller.plan(key, time.time())
            except Exception:
                log.exception("%s %s: planning failed", self.controller.name, key)
                self._later(key, self._backoffs.setdefault(key, Backoff(first=1.0, cap=300.0)).next())
                continue
            steps += [Step(key, op) for op in plan.ops]
            if plan.again is not None:
                self._later(key, plan.again)
            if not plan.ops:
                self._backoffs.pop(key, None)
        return steps

    async def apply(self, ops: Sequence[Step]) -> None:
        """Write each key's ops; a key's failure is its own unless the API is away."""
        by_key: dict[str, list[Op]] = {}
        for step in ops:
            by_key.setdefault(step.key, []).append(step.op)
        results = await asyncio.gather(*(self._write(key, each) for key, each in by_key.items()))
        away = [error for error in results if error is not None]
        if away:
            raise away[0] if len(away) == 1 else ExceptionGroup("the API does not answer", away)

    async def _write(self, key: str, ops: list[Op]) -> Exception | None:
        try:
            await self.writer.write(ops)
        except Exception as error:
            found = leaves(error)
            if any(isinstance(leaf, (Unreachable, Busy)) for leaf in found):
                return error
            backoff = self._backoffs.setdefault(key, Backoff(first=0.02, cap=60.0))
            stale = all(isinstance(leaf, STALE) for leaf in found)
            level = logging.DEBUG if stale and backoff.failures < 5 else logging.WARNING
            log.log(level, "%s %s: %s", self.controller.name, key, describe_error(error),
                    exc_info=None if all(isinstance(leaf, Fault) for leaf in found) else error)
            self._later(key, backoff.next())
        else:
            self._backoffs.pop(key, None)
        return None

    def forget(self) -> None:
        """The pass failed: look at its keys again."""
        self._dirty |= self._taken

    def _later(self, key: str, delay: float) -> None:
        """Look again after a while; an earlier appointment stands."""
        loop = asyncio.get_running_loop()
        at = loop.time() + max(delay, 0.005)
        standing = self._timers.get(key)
        if standing:
            if standing.when() <= at:
                return
            standing.cancel()
        self._timers[key] = loop.call_at(at, self._ring, key)

    def _ring(self, key: str) -> None:
        self._timers.pop(key, None)
        self.mark(key)


def reconciler(controller: Controller, writer: Writer, synced: Callable[[], bool]) -> Reconciler:
    """The loop of one controller, its listeners in place."""
    target = KeyedTarget(controller, writer, synced)
    loop = Reconciler(controller.name, target, backoff=Backoff(first=0.1, cap=5.0))
    target.wake = loop.mark
    controller.listen(target.mark)
    return loop
