"""A server's end in good order: readiness fails, those who route have time to notice, watches end, the rest is answered.

    signal -> /readyz says 500 -> --shutdown-delay-duration -> watches end with a bookmark, streams are cut -> no new connections,
    requests under way are finished (DRAIN_SECONDS) -> the tasks behind them end

Read next: `server.py`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine, Mapping
from typing import Any

from minik8s.apiserver.handler import Handler
from minik8s.apiserver.health import Health
from nodecore.daemon.systemd import notify
from nodecore.kube.http import web
from nodecore.loop.supervise import run_tasks

log = logging.getLogger(__name__)
DRAIN_SECONDS = 5.0


async def run_until_told(tasks: Mapping[str, Coroutine[Any, Any, None]], runner: web.ServerRunner, handler: Handler,
                         health: Health, delay: float) -> None:
    """Run what must run for ever until a signal comes, then end as described; a task that fails ends all at once."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    running = asyncio.create_task(run_tasks(tasks, signals=False), name="tasks")
    waiting = asyncio.create_task(told.wait(), name="signal")
    try:
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            health.stopping = True
            notify("STOPPING=1")
            log.info("ending: no longer ready")
            await asyncio.sleep(delay)
    finally:
        waiting.cancel()
        await handler.end_streams(DRAIN_SECONDS)
        await runner.cleanup()
        if running.done():
            await running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
