"""Ask until there is an answer: what the environment refuses now it may give later.

    config = await persist(store.config, "cannot read the configuration", log=log)

Each trouble is told once, and again every ten minutes, however often it is met meanwhile: a full disk or a dead server is one
line in the log and not a thousand. What is the user's mistake or ours is raised at once.
Read next: `nodecore/loop/backoff.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from nodecore.errors import Blame, Fault
from nodecore.loop.backoff import Backoff

T = TypeVar("T")
AGAIN = 600.0


@dataclass
class Complaint:
    """What is said about one thing that fails: each of its troubles once in `again` seconds."""

    log: logging.Logger
    what: str
    again: float = AGAIN
    _told: dict[str, float] = field(default_factory=dict)

    def tell(self, trouble: object) -> bool:
        """Log it unless that was done lately; says whether it was news."""
        text, now = str(trouble), time.monotonic()
        news = now - self._told.get(text, -self.again) >= self.again
        if news:
            self._told[text] = now
            self.log.error("%s: %s; trying again", self.what, text)
        return news

    def settle(self) -> None:
        """It worked: the next trouble is news again."""
        if self._told:
            self.log.info("%s: no more", self.what)
            self._told.clear()


async def persist(
    ask: Callable[[], Awaitable[T]], what: str, *, log: logging.Logger, cap: float = 5.0, patient: bool = False,
    on_trouble: Callable[[Fault], None] = lambda fault: None,
) -> T:
    """The answer, however long that takes; if `patient`, even the user's mistakes are waited out."""
    complaint, backoff = Complaint(log, what), Backoff(first=0.2, cap=cap)
    while True:
        try:
            answer = await ask()
        except Fault as fault:
            if not patient and fault.blame is not Blame.ENVIRONMENT:
                raise
            if complaint.tell(fault):
                on_trouble(fault)
        else:
            complaint.settle()
            return answer
        await asyncio.sleep(backoff.next())
