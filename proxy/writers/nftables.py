"""nftables mode's writes: a table per family, replaced in one transaction or changed in one.

Where there is no table yet it is written in several, so that nobody else's rules wait long; its hooks come with the last.

A table is either known to be as written, or looked at: the kernel's news says when somebody else has touched it. Of one that is
declared as ours would be, an earlier life's for example, what differs is changed: that takes a fifth of the time of a new one.
Must not know: Services. Read next: `proxy/render/nftables.py`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from functools import cache

from nodecore.errors import Fault, Invalid
from nodecore.kernel.nft import Nft
from nodecore.kernel.nftdump import chain_names, read_elements, set_names, verdict
from nodecore.net import Family

from .. import names
from ..ledger import Delta
from ..render.nftables import Layout
from ..render.nftread import Container, There, Words
from .tables import KnownTables
from .takeover import Standing, Takeover, tables_of

log = logging.getLogger(__name__)
ANONYMOUS = "__"  # begins the names of sets that are part of a rule


class NftablesWriter:
    """The tables of the families that are served."""

    at_once = True  # nft of one reads while we write the words of the other

    def __init__(self, nft: Nft, takeover: Takeover, families: Sequence[Family]) -> None:
        self._nft, self._takeover, self._families = nft, takeover, families
        self._known = KnownTables(nft)

    async def intact(self, layout: Layout) -> bool:
        """Nobody has been heard to touch it."""
        return layout.family in self._known

    async def replace(self, layout: Layout, everything: Delta) -> None:
        """The whole table in one transaction in the place of the old one; several where there is none."""
        self._known.add(layout.family)
        if layout.table not in await self._nft.list_tables():
            for script in layout.first_scripts(everything):
                await self._nft.load(script)
            return
        if await self._mend(layout, everything):
            return
        kept = await self._affinity(layout, everything)
        try:
            await self._nft.load(layout.full_script(everything, kept))
        except Invalid:
            if not kept:
                raise
            await self._nft.load(layout.full_script(everything))

    async def _mend(self, layout: Layout, everything: Delta) -> bool:
        """Change what differs, if it is our table; whoever has put strange things there is answered by a new one."""
        try:
            there = read_table(layout)
            if there:
                await self._nft.load(layout.mending_script(everything, there))
        except Fault as error:
            log.info("%s is written anew: %s", layout.where, error)
            return False
        return there is not None

    async def update(self, layout: Layout, delta: Delta) -> None:
        """Elements and chains in one transaction."""
        await self._nft.load(layout.delta_script(delta))

    async def _affinity(self, layout: Layout, everything: Delta) -> list[str]:
        """Commands that bring back which client is at which endpoint, so that a restart moves nobody."""
        sticking = {path.maps for path in names.PATHS for chain in everything.added_chains
                    if chain.name.startswith(f"{path.name}-stick-")}
        kept: list[str] = []
        for path in names.OWN_MAPS:
            if path.maps in sticking:
                listed = await self._nft.list_map(layout.family.nft, names.TABLE, path.affinity)
                _, found, rest = (listed or "").partition("elements = {")
                if found:
                    elements = " ".join(rest.partition("}")[0].split())
                    kept.append(f"add element {layout.table} {path.affinity} {{ {elements} }}")
        return kept

    def forget(self) -> None:
        """Write all anew."""
        self._known.clear()

    def news(self) -> AsyncIterator[None]:
        """When a table of ours was changed by others."""
        return self._known.news()

    async def sweep(self) -> None:
        """Everything but our tables."""
        await self._takeover.leave_only(Standing(tables_of(self._families)))


def read_table(layout: Layout) -> There | None:
    """What the kernel has of the table; None where it is declared otherwise. Blocks, for four seconds of a million elements."""
    containers = layout.containers()
    found = {name for name in set_names(layout.family, names.TABLE) if not name.startswith(ANONYMOUS)}
    if found != containers.keys():
        return None
    compared = [item for item in containers.values() if not (item.refilled or item.alone)]
    return There(chain_names(layout.family, names.TABLE), {item.name: _elements(layout, item) for item in compared})


def _elements(layout: Layout, container: Container) -> Words:
    pairs = read_elements(layout.family, names.TABLE, container.name)
    key = container.reader()
    if not container.value:
        return {key(raw): "" for raw, _ in pairs}
    value = cache(verdict) if container.value == ("verdict",) else container.value_reader()
    return {key(raw): value(data) for raw, data in pairs}
