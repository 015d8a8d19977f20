"""IPVS mode's writes: virtual servers and addresses first, then the nft table that sends packets there, then what goes.

The kernel tells nobody of changes to virtual servers, so their keys are looked at from time to time; of the table nft
tells. Must not know: Services. Read next: `proxy/writers/virtual_servers.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence

from nodecore.kernel.nft import Nft
from nodecore.kernel.ports import Network
from nodecore.net import Family, IPNetwork

from ..ledger import Delta
from ..render.ipvs import Layout
from .tables import KnownTables
from .takeover import Standing, Takeover, tables_of
from .virtual_servers import Servers, VirtualServers

log = logging.getLogger(__name__)
LOOK_SECONDS = 15.0  # at what drains, and at the servers


class IpvsWriter:
    """The servers and tables of the families that are served."""

    at_once = False  # one after the other asks for servers and addresses

    def __init__(
        self, nft: Nft, takeover: Takeover, families: Sequence[Family], ipvs: Servers, network: Network,
        excluded: Sequence[IPNetwork] = (),
    ) -> None:
        self._nft, self._takeover, self._families = nft, takeover, families
        self._halves = {family: VirtualServers(family, ipvs, network, excluded) for family in families}
        self._known = KnownTables(nft)
        self._looked: dict[Family, float] = {}

    async def intact(self, layout: Layout) -> bool:
        """Nobody has touched the table, and the servers are there with their addresses; what has drained meanwhile is removed."""
        family = layout.family
        if family in self._known and time.monotonic() - self._looked.get(family, 0.0) > LOOK_SECONDS:
            self._looked[family] = time.monotonic()
            half = self._halves[family]
            if half.is_draining():
                await half.reap()
            if not await half.are_there():
                log.warning("virtual servers or addresses were changed by somebody else: writing them anew")
                self._known.discard(family)
        return family in self._known

    async def replace(self, layout: Layout, everything: Delta) -> None:
        """Of servers and addresses what is wrong; the whole table in one transaction."""
        self._known.add(layout.family)
        half = self._halves[layout.family]
        delta = await half.difference(everything)
        await half.add(delta.added)
        await self._nft.load(layout.table_script(everything))
        await half.drain(delta)

    async def update(self, layout: Layout, delta: Delta) -> None:
        """What has changed."""
        half = self._halves[layout.family]
        await half.add(delta.added)
        if script := layout.delta_script(delta):
            await self._nft.load(script)
        await half.drain(delta)

    def forget(self) -> None:
        """Write all anew."""
        self._known.clear()

    def news(self) -> AsyncIterator[None]:
        """When a table of ours was changed by others."""
        return self._known.news()

    async def sweep(self) -> None:
        """Everything but our tables."""
        await self._takeover.leave_only(Standing(tables_of(self._families), servers=True))
