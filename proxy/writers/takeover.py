"""Removes rules for Services that are not ours to keep: of our other modes, and all of Go kube-proxy's.

Virtual servers that have connections are kept, without getting more, until these have ended: a switch cuts nothing.
Only called when what is to stay stands, so that a switch has no moment without rules. Tables are looked at only if they
exist: looking at a legacy one would make it.

Must not know: which mode is in force; it is told what stands. Read next: `proxy/render/leftovers.py`.
"""

from __future__ import annotations

import logging
import shutil
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from nodecore.errors import Busy, Fault
from nodecore.kernel.ipset import Ipset
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.nft import Nft
from nodecore.kernel.ports import Variant
from nodecore.kernel.virtualserver import Destination
from nodecore.net import Family, IPNetwork

from .. import names
from ..render.ipvs import DEVICE
from ..render.leftovers import GO_SETS, Whose, removal_script
from .virtual_servers import clear, lives

log = logging.getLogger(__name__)
TABLES = ("nat", "filter", "mangle")  # in the last one Go kube-proxy keeps a canary
Place = tuple[Variant, Family]


def tables_of(families: Iterable[Family], name: str = names.TABLE) -> frozenset[str]:
    """Each family's table of that name, as nft lists it."""
    return frozenset(f"{family.nft} {name}" for family in families)


OURS = tables_of(Family) | tables_of(Family, names.TRAFFIC_TABLE)
GO = tables_of(Family, names.GO_TABLE)


@dataclass(frozen=True, slots=True)
class Standing:
    """What of ours is in force, and stays."""

    tables: frozenset[str] = frozenset()  # of nft, as it lists them
    chains: frozenset[Place] = frozenset()
    servers: bool = False


class Takeover:
    """Of a node; virtual servers in the networks `excluded` are nobody's of these."""

    def __init__(self, nft: Nft, chains: Iptables, excluded: Sequence[IPNetwork] = ()) -> None:
        self._nft, self._chains, self._excluded = nft, chains, excluded

    async def leave_only(self, standing: Standing) -> None:
        """Remove Go kube-proxy's, and what does not stand of ours; `Busy` while virtual servers have connections."""
        await self._remove_tables((OURS | GO) - standing.tables)
        stuck = await self._remove_chains(lambda place: [Whose.GO] if place in standing.chains else [*Whose])
        await remove_sets(await go_sets())
        if not standing.servers:
            await self._remove_servers(spared=lives)
        complain(stuck)

    async def clean_up(self) -> None:
        """Remove all that is ours, at once. Where there are Go kube-proxy's sets the virtual servers are its by now, and stay."""
        await self._remove_tables(OURS)
        stuck = await self._remove_chains(lambda _: [Whose.OURS])
        if not await go_sets():
            await self._remove_servers(spared=lambda _: False)
        complain(stuck)

    async def _remove_tables(self, doomed: frozenset[str]) -> None:
        """The rules first: of a table that goes whole the kernel takes the maps while packets still read its rules, and who is
        found in no map, but in the set of the Services' addresses, would be refused.
        """
        for table in sorted(doomed & set(await self._nft.list_tables())):
            log.info("removing table %s", table)
            await self._nft.load(f"flush table {table}\n")
            await self._nft.load(f"delete table {table}\n")

    async def _remove_chains(self, whose: Callable[[Place], Collection[Whose]]) -> list[str]:
        """Whichever can be; says which tables could not be freed of them, and why."""
        stuck, there = [], await self._nft.list_tables()
        for variant in await self._chains.variants():
            for family in Family:
                legacy = self._chains.registered(family) if variant is Variant.LEGACY else {}
                for table in TABLES:
                    if table in legacy if variant is Variant.LEGACY else f"{family.nft} {table}" in there:
                        stuck += await self._remove_from(table, (variant, family), whose((variant, family)))
        return stuck

    async def _remove_from(self, table: str, place: Place, whose: Collection[Whose]) -> list[str]:
        name = f"{table} of {place[1].nft}tables-{place[0].value}"
        try:
            script = removal_script(table, await self._chains.save(*place, table), whose)
            if script:
                log.info("removing Service chains from %s", name)
                await self._chains.restore(*place, script)
        except Busy:
            raise
        except Fault as error:
            return [f"{name}: {error}"]
        return []

    async def _remove_servers(self, spared: Callable[[Destination], bool]) -> None:
        """With the device that has their addresses: where that is not, no proxy was in ipvs mode."""
        if DEVICE not in (name for _, name in socket.if_nameindex()):
            return
        from nodecore.kernel.ipvs import Ipvs
        from nodecore.kernel.netlink import KernelNetwork

        with closing(Ipvs()) as ipvs, closing(KernelNetwork()) as network:
            left = await clear(ipvs, network, self._excluded, spared)
        if left:
            raise Busy(f"virtual servers of ipvs mode, until {sum(item.connections for item in left)} connections end, "
                       f"some of {left[0].server.describe()} to {left[0].describe()}")


def complain(stuck: Sequence[str]) -> None:
    """Raise `Fault` for tables whose chains stay: whoever asked tries again, or says so."""
    if stuck:
        raise Fault(f"Service chains stay in {'; '.join(stuck)}")


async def go_sets() -> list[str]:
    """The sets of Go kube-proxy's ipvs mode."""
    return [name for name in await Ipset().names() if GO_SETS.fullmatch(name)] if shutil.which("ipset") else []


async def remove_sets(found: Sequence[str]) -> None:
    """Remove sets that no rule is left to use."""
    if not found:
        return
    log.info("removing %d sets of Go kube-proxy", len(found))
    try:
        await Ipset().restore("".join(f"destroy {name}\n" for name in found))
    except Fault as error:
        log.warning("some sets of Go kube-proxy stay: %s", error)
