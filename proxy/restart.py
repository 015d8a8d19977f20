"""What this process cannot take while it runs: another --config, and of our Node other networks and addresses that flags follow.

It ends then, as kube-proxy does, and whoever started it starts it again; the rules stay and serve meanwhile.
Must not know: rules. Read next: `proxy/agent.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nodecore.errors import Fault, UserError
from nodecore.files import look
from nodecore.kube.objects import Node

from .config import Config

log = logging.getLogger(__name__)
PAUSE = 1.0  # seconds between two looks at the file
Reread = Callable[[], Config]


class Home:
    """What our Node said when this process began; `watch` ends it when that is no longer so."""

    def __init__(self, now: Config, settled: Callable[[Node], Config | None]) -> None:
        self._now, self._settled = now, settled
        self._moved = asyncio.Event()

    def see(self, node: Node | None) -> None:
        """Take our Node as it is now; one that says nothing yet has not moved."""
        found = self._settled(node) if node else None
        if found and found != self._now:
            self._moved.set()

    async def watch(self) -> None:
        """Wait until it has moved."""
        await self._moved.wait()
        raise Fault(f"Node {self._now.node}: its podCIDRs or addresses are others now; ending, to begin anew with them")


async def watch_file(path: str, now: Config, reread: Reread) -> None:
    """Wait until the file says something else; one that is wrong is told, and what counted goes on."""
    seen = look(path)
    while True:
        await asyncio.sleep(PAUSE)
        if (found := look(path)) in (None, seen):
            continue
        seen = found
        try:
            if reread() != now:
                raise Fault(f"--config: {path} says something else now; ending, to begin anew with it")
        except UserError as error:
            log.error("%s; going on with what it said before", error)
