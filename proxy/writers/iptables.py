"""iptables mode's writes, in the variant the host uses, and whether they are still there.

The jumps from the built-in chains stand before everybody else's rules. Of iptables-nft the nft monitor tells which chain
others have touched; of iptables-legacy the kernel tells the table's size, which is asked for four times a second. Others write to
these tables all the time, so then it is looked whether what is ours is still there, and only if not it is written anew.

Must not know: Services. Read next: `proxy/render/iptables.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

from nodecore.kernel.iptables import Iptables, entries_of
from nodecore.kernel.nft import Nft
from nodecore.kernel.ports import EVERYTHING, Variant
from nodecore.net import Family

from ..ledger import Delta
from ..names import PREFIX, TRAFFIC_TABLE
from ..render import counting
from ..render.iptables import FILTER_JUMPS, NAT_JUMPS, TABLES, Layout
from ..render.leftovers import Held, read_tables
from .takeover import Standing, Takeover, tables_of

log = logging.getLogger(__name__)
POLL_SECONDS = 0.25  # a look takes a fiftieth of a millisecond
HOOKED = {"nat": {hook for hook, _ in NAT_JUMPS}, "filter": {hook for hook, _ in FILTER_JUMPS}}
Stamps = Mapping[str, bytes]
UNSURE: Stamps = {"": b""}  # is no table's, so that these are looked at


class IptablesWriter:
    """The chains of the families that are served."""

    at_once = False  # the families of iptables-legacy share a lock

    def __init__(self, nft: Nft, chains: Iptables, takeover: Takeover, families: Sequence[Family]) -> None:
        self._nft, self._chains, self._takeover, self._families = nft, chains, takeover, families
        self._known: dict[Family, Stamps] = {}  # of the legacy tables after our last write
        self._counts: dict[Family, Counter[str]] = {}  # of our rules, by table
        self._written: dict[Family, Counter[str]] = {}  # of those, by the last write
        self._suspect: set[Family] = set()  # others have written where our jumps are
        self._legacy = False
        self._counting = False  # with an nft table beside the chains

    async def intact(self, layout: Layout) -> bool:
        """Nobody has touched it, or what is ours is there all the same."""
        family = layout.family
        if family not in self._known or (self._counting and f"{family.nft} {TRAFFIC_TABLE}" not in await self._nft.list_tables()):
            return False
        stamps = self._stamps(family)
        if self._suspect_now(family, stamps):
            if not await (self._is_whole(layout) if self._legacy else self._is_jumped_to(layout)):
                log.warning("%s: our rules were changed by somebody else: writing them anew", layout.where)
                self._known.pop(family, None)
                return False
            if family in self._known:
                self._known[family] = stamps
        return family in self._known

    def _suspect_now(self, family: Family, stamps: Stamps) -> bool:
        suspect = family in self._suspect or stamps != self._known[family]
        self._suspect.discard(family)
        return suspect

    async def _is_whole(self, layout: Layout) -> bool:
        """Whether there are as many rules of ours as there should be, and the jumps to them."""
        there = read_tables(await self._chains.save(Variant.LEGACY, layout.family))
        held = {table: there.get(table, Held()) for table in TABLES}
        return all(held[table].rules == self._counts[layout.family][table] and len(held[table].jumps) == len(layout.jumps(table))
                   for table in TABLES)

    async def _is_jumped_to(self, layout: Layout) -> bool:
        variant = await self._chains.chosen()
        for table in TABLES:
            there = {hook: await self._chains.list_chain(variant, layout.family, table, hook) or () for hook in HOOKED[table]}
            if any(f"-A {hook} {jump}" not in there[hook] for hook, jump in layout.jumps(table)):
                return False
        return True

    async def replace(self, layout: Layout, everything: Delta) -> None:
        """Each table at once; what was there of ours before and is not wanted any more goes with it."""
        variant, family = await self._chains.chosen(), layout.family
        self._legacy = variant is Variant.LEGACY
        before = self._stamps(family)
        held = read_tables(await self._chains.save(variant, family))
        self._known[family] = {}  # before, so that somebody's change during the write puts it in doubt again
        self._suspect.discard(family)
        await self._chains.restore(variant, family, layout.full_script(everything, held))
        self._counts[family] = self._written[family] = layout.rule_counts(everything, fixed=True)
        self._counting = layout.settings.count_traffic
        if self._counting:
            await self._nft.load(counting.own_table(family, everything))
        more = layout.entry_counts(everything, fixed=True)
        more.subtract({table: held[table].entries for table in TABLES if table in held})
        self._note(family, before, more)

    async def update(self, layout: Layout, delta: Delta) -> None:
        """What has changed, each table at once; it fails where what is to go is not there."""
        stamps = self._stamps(layout.family)
        if script := counting.change(layout.family, delta):
            await self._nft.load(script)
        await self._chains.restore(await self._chains.chosen(), layout.family, layout.delta_script(delta))
        self._counts[layout.family] = self._counts[layout.family] + layout.rule_counts(delta)
        self._written[layout.family] = layout.rule_counts(Delta(added=delta.added, added_chains=delta.added_chains))
        if stamps == self._known.get(layout.family):
            self._note(layout.family, stamps, layout.entry_counts(delta))

    def rules(self) -> Counter[str]:
        """How many there are of ours, by table."""
        return sum(self._counts.copy().values(), Counter())

    def written(self) -> Counter[str]:
        """How many the last write of each family wrote."""
        return sum(self._written.copy().values(), Counter())

    def _note(self, family: Family, before: Stamps, more: Counter[str]) -> None:
        """Take the tables as they are now for those we wrote, if they have as many entries more as we meant.

        Who waited for the lock may write as soon as we have written.
        """
        if family not in self._known:
            return
        now = self._stamps(family)
        ours = now.keys() == before.keys() and all(
            entries_of(now[table]) - entries_of(before[table]) == more[table] for table in now)
        self._known[family] = now if ours or not now else UNSURE

    def _stamps(self, family: Family) -> Stamps:
        """What the kernel says of our tables; nothing of iptables-nft's."""
        if not self._legacy:
            return {}
        return {table: stamp for table, stamp in self._chains.registered(family).items() if table in TABLES}

    def forget(self) -> None:
        """Write all anew."""
        self._known.clear()

    async def news(self) -> AsyncIterator[None]:
        """When others have written where ours is."""
        if await self._chains.chosen() is Variant.LEGACY:
            while True:
                await asyncio.sleep(POLL_SECONDS)
                if any(self._stamps(family) != known for family, known in self._known.items() if known):
                    yield
        async for change in self._nft.changes(chains=True):
            if self._hear(change):
                yield

    def _hear(self, change: str) -> bool:
        """Whether it may be about us: `family table chain`, or without the chain where the whole table went."""
        if change == EVERYTHING:
            self.forget()
            return True
        name, table, chain = [*change.split(" ", 2), "", ""][:3]
        family = next((family for family in self._known if family.nft == name), None)
        if family is None or table not in TABLES:
            return family is not None and table == TRAFFIC_TABLE
        if not chain or chain.startswith(PREFIX):
            log.warning("%s %s: our rules were changed by somebody else: writing them anew", table, chain)
            self._known.pop(family)
            return True
        if chain in HOOKED[table]:
            self._suspect.add(family)
            return True
        return False

    async def sweep(self) -> None:
        """Everything but our chains in this variant."""
        variant = await self._chains.chosen()
        traffic = tables_of(self._families, TRAFFIC_TABLE) if self._counting else frozenset()
        await self._takeover.leave_only(Standing(traffic, frozenset((variant, family) for family in self._families)))
