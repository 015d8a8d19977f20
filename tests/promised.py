"""What is promised of time, asked of machines that may be late by chance.

    took = in_time(lambda: heal_once(), 1.0, "a deleted route is back")      # one of three attempts is in time
    await at_some_pace(attempt)                                              # all its seconds are stretched until it can
    verdict = at_any_pace(attempt)                                           # the same for what awaits nothing

A broken promise is broken each time and at every pace; a machine that does five things at once is late now and then. An
attempt fails by itself for what does not come at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

ATTEMPTS = 3
PACES = (1.0, 4.0, 12.0)
Result = TypeVar("Result")


def in_time(attempt: Callable[[], float], limit: float, what: str) -> float:
    """The seconds (or whatever is counted) of the first attempt that kept to the limit."""
    took: list[float] = []
    while len(took) < ATTEMPTS:
        took.append(attempt())
        if took[-1] <= limit:
            return took[-1]
    raise AssertionError(f"{what}: promised within {limit:g}, took {', '.join(f'{one:.3g}' for one in took)}")


async def at_some_pace(attempt: Callable[[float], Awaitable[None]]) -> None:
    """Try it with its seconds as they are, then several times as long: for what is set in seconds and acts upon others."""
    for pace in PACES:
        try:
            return await attempt(pace)
        except Exception:
            if pace == PACES[-1]:
                raise


def at_any_pace(attempt: Callable[[float], Result]) -> Result:
    """What the first attempt that did not fail has found; each has longer than the one before."""
    for pace in PACES[:-1]:
        with suppress(Exception):
            return attempt(pace)
    return attempt(PACES[-1])
