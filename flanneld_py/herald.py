"""Telling the place where leases are kept how this node is; in Kubernetes that is the condition NetworkUnavailable.

Nothing is told before the network has worked once: until then, what an earlier life told stands.
Must not know: Kubernetes. Read next: `flanneld_py/tenure.py`, which has the news.
"""

from __future__ import annotations

import asyncio
import logging

from flanneld_py.store.port import LeaseStore, Standing
from nodecore.loop.persist import persist

log = logging.getLogger(__name__)


class Herald:
    """Announces the standing of the node, and every new one."""

    def __init__(self, store: LeaseStore) -> None:
        self._store = store
        self._standing = Standing()
        self._news = asyncio.Event()
        self._begun = False

    def begin(self) -> None:
        """The network works: from now on, tell."""
        self._begun = True
        self._news.set()

    def say(self, standing: Standing) -> None:
        """This is how it is now."""
        if standing != self._standing:
            self._standing = standing
            if self._begun:
                self._news.set()

    async def run(self) -> None:
        """Announce what is new, for ever; only the last word counts."""
        while True:
            await self._news.wait()
            self._news.clear()
            await persist(self._announce, "cannot announce how this node is", log=log, cap=60.0, patient=True)

    async def _announce(self) -> None:
        await self._store.announce(self._standing)
