"""The loop of whoever keeps something in order: act once, and again after every change of one of some kinds.

Must not know: what is kept. Read next: `namespace_objects.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from nodecore.errors import Fault

log = logging.getLogger(__name__)
AGAIN = 1.0


async def after_every_change(cluster: Cluster, plurals: Sequence[str], act: Callable[[], Awaitable[None]], *, what: str,
                             rest: float = 0.0) -> None:
    """For ever; what failed is tried again, and between two times there are `rest` seconds at least."""
    caches = [cluster.cache(BY_PLURAL[plural]) for plural in plurals]
    for cache in caches:
        await cache.ready()
    seen: list[int] = []
    while True:
        now = [cache.window.end for cache in caches]
        if now != seen:
            seen = now
            try:
                await act()
            except Fault as fault:
                log.warning("%s: %s", what, fault)
                seen = []
                await asyncio.sleep(AGAIN)
            await asyncio.sleep(rest)
            continue
        waiting = [asyncio.ensure_future(cache.changed()) for cache in caches]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
