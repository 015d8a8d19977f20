"""Which of our nft tables are known to be as they were written: the kernel's news says when somebody else has touched one.

Must not know: what is in them. Read next: `proxy/writers/nftables.py`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from nodecore.kernel.nft import Nft
from nodecore.kernel.ports import EVERYTHING
from nodecore.net import Family

from .. import names

log = logging.getLogger(__name__)


class KnownTables:
    """The families whose table is known; put one in before writing it, so that a change during the write takes it out again."""

    def __init__(self, nft: Nft) -> None:
        self._nft = nft
        self._families: set[Family] = set()

    def __contains__(self, family: Family) -> bool:
        return family in self._families

    def add(self, family: Family) -> None:
        """It is about to be written."""
        self._families.add(family)

    def discard(self, family: Family) -> None:
        """It is to be written anew."""
        self._families.discard(family)

    def clear(self) -> None:
        """All are."""
        self._families.clear()

    async def news(self) -> AsyncIterator[None]:
        """When a table of ours was changed by others."""
        async for change in self._nft.changes():
            if self._hear(change):
                yield

    def _hear(self, change: str) -> bool:
        if change == EVERYTHING:
            self.clear()
            return True
        for family in self._families:
            if change == f"{family.nft} {names.TABLE}":
                log.warning("table %s was changed by somebody else: writing it anew", change)
                self.discard(family)
                return True
        return False
