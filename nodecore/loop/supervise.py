"""Run an agent's eternal tasks together: one that ends, ends them all, and that is an error.

SIGINT and SIGTERM end the tasks in good order. Read next: `nodecore/daemon/entry.py`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Mapping
from typing import Any

from nodecore.errors import Bug


class _Stop(Exception):
    """Raised inside the group by a signal, to end its tasks."""


async def run_tasks(tasks: Mapping[str, Coroutine[Any, Any, None]], *, signals: bool = True) -> None:
    """Run named coroutines until a signal comes or one of them fails or ends.

    Returns on SIGINT/SIGTERM; raises the exception group of whatever failed.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    try:
        async with asyncio.TaskGroup() as group:
            for name, coroutine in tasks.items():
                group.create_task(_guard(name, coroutine), name=name)
            await stop.wait()
            raise _Stop
    except* _Stop:
        pass


async def _guard(name: str, coroutine: Coroutine[Any, Any, None]) -> None:
    await coroutine
    raise Bug(f"task {name} ended, but was meant to run for ever")
