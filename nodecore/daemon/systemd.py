"""The talk with systemd (or with the lab's node, which speaks the same): readiness, watchdog, inherited sockets.

Protocols: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3). Without their environment variables every
function here does nothing. Read next: `nodecore/daemon/health.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

FIRST_FD = 3


def notify(state: str) -> bool:
    """Send e.g. `READY=1` or `STATUS=...`; says whether anybody was told."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall(state.encode())
        except OSError:
            return False
    return True


def listen_sockets() -> dict[str, socket.socket]:
    """The sockets this process inherited, by the names in LISTEN_FDNAMES (`unknown` where there is none)."""
    if os.environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        return {}
    count = int(os.environ.get("LISTEN_FDS", "0") or 0)
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, socket.socket] = {}
    for index in range(count):
        name = names[index] if index < len(names) and names[index] else "unknown"
        sock = socket.socket(fileno=FIRST_FD + index)
        sock.set_inheritable(False)
        found[name] = sock
    return found


async def watchdog(alive: Callable[[], bool]) -> None:
    """Ping the watchdog at half its period for as long as `alive()`; runs for ever."""
    period = int(os.environ.get("WATCHDOG_USEC", "0") or 0) / 1e6
    if not period:
        await asyncio.Event().wait()
    while True:
        if alive():
            notify("WATCHDOG=1")
        await asyncio.sleep(period / 2)
