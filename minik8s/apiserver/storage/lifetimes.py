"""How long passing objects (Events) live: etcd leases, each shared by all that are written within a short while.

    lease of `ttl` + a bucket     granted when the last one's bucket is over or it holds LARGEST objects
    bucket                        a twentieth of `ttl`, at most a minute: so much longer may an object live, never shorter

A write takes the lease of its own moment, so that a changed object begins its time anew. Leases are never renewed.
Must not know: what is written. Read next: `minik8s/apiserver/storage/objects.py`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from nodecore.etcd.client import EtcdClient

SHARE, LONGEST_BUCKET = 0.05, 60.0
LARGEST = 1000


class Lifetime:
    """Hands out leases that last at least `ttl` seconds from now."""

    def __init__(self, etcd: EtcdClient, ttl: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._etcd, self._ttl, self._clock = etcd, ttl, clock
        self._bucket = min(ttl * SHARE, LONGEST_BUCKET)
        self._granting = asyncio.Lock()
        self._lease = self._taken = 0
        self._until = 0.0

    async def lease(self) -> int:
        """The lease for an object that is written now."""
        async with self._granting:
            if not self._lease or self._taken >= LARGEST or self._clock() > self._until:
                until = self._clock() + self._bucket
                self._lease = await self._etcd.grant(math.ceil(self._ttl + self._bucket))
                self._until, self._taken = until, 0
            self._taken += 1
            return self._lease
