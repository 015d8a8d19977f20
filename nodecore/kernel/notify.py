"""The kernel's notifications as they come.

Must not know: which of them matter, and to whom. Read next: `nodecore/kernel/echo.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

from nodecore.kernel.batch import NetlinkSocket

BUFFER = 8 << 20
SIZE = 1 << 16
MANY = 1000


async def notifications(netns: str, groups: Sequence[int], pause: float | None = None) -> AsyncIterator[bytes | None]:
    """The kernel's notifications as they come; None at the start and when some were lost, nothing after a pause without any."""
    loop = asyncio.get_running_loop()
    with NetlinkSocket(netns, groups, buffer=BUFFER) as monitor:
        monitor.sock.settimeout(0)
        yield None
        while True:
            try:
                async with asyncio.timeout(pause):
                    data = await loop.sock_recv(monitor.sock, SIZE)
                yield data + b"".join(_waiting(monitor))
            except TimeoutError:
                yield b""
            except OSError:  # ENOBUFS: the socket goes on
                yield None


def _waiting(monitor: NetlinkSocket) -> Iterator[bytes]:
    """What has come meanwhile: many at once cost little more than one."""
    for _ in range(MANY):
        try:
            yield monitor.sock.recv(SIZE)
        except BlockingIOError:
            return
