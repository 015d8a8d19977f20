"""The kernel's notifications as they come.

Must not know: which of them matter, and to whom. Read next: `nodecore/kernel/echo.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from nodecore.kernel.batch import NetlinkSocket

BUFFER = 8 << 20


async def notifications(netns: str, groups: Sequence[int]) -> AsyncIterator[bytes | None]:
    """The kernel's notifications as they come; None at the start, and when some were lost."""
    loop = asyncio.get_running_loop()
    with NetlinkSocket(netns, groups, buffer=BUFFER) as monitor:
        monitor.sock.settimeout(0)
        yield None
        while True:
            try:
                data = await loop.sock_recv(monitor.sock, 1 << 16)
            except OSError:  # ENOBUFS: the socket goes on
                yield None
            else:
                yield data
