"""SIGHUP: everything is read anew, by starting anew in place.

    RELOADING=1 -> read the network config; wrong? say so, READY=1, go on as before
                -> right: end in good order and exec ourselves: same process, same flags -> READY=1 when the network works

Starting anew is what this daemon does well: what is in the kernel is taken over, no packet is lost. So a reload can change
all that a restart can: the network config, certificates, kubeconfig, the program itself. Flags and environment stay.

Must not know: what is read. Read next: `flanneld_py/agent.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from nodecore.daemon import systemd
from nodecore.errors import Fault

log = logging.getLogger(__name__)


class Reload(Exception):
    """Ends everything, to start anew."""


async def follow_hangups(check: Callable[[], Awaitable[object]]) -> None:
    """Wait for SIGHUP; raise `Reload` when `check` finds that starting anew would work."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    while True:
        await asked.wait()
        asked.clear()
        systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            await check()
        except Fault as fault:
            log.error("Not reloaded, going on as before: %s", fault)
            systemd.notify("READY=1")
        else:
            log.info("Reloading")
            raise Reload


def start_anew() -> NoReturn:
    """Become a new life of the same program; a SIGHUP that comes before it listens is lost, not deadly."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
