"""Removes rules for Services that are not ours to keep: of our other modes, and all of Go kube-proxy's.

Virtual servers that have connections are kept, without getting more, until these have ended: a switch cuts nothing.
Only called when what is to stay stands, so that a switch has no moment without rules. Tables are looked at only if they
exist: looking at a legacy one would make it.

Must not know: what is in force. Read next: `proxy/render/leftovers.py`.
"""

from __future__ import annotations

import logging
import shutil
import socket
from collections.abc import Callable, Sequence
from contextlib import closing

from nodecore.errors import Busy, Fault
from nodecore.kernel.ipset import Ipset
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.nft import Nft
from nodecore.kernel.ports import Variant
from nodecore.net import Family, IPNetwork

from .. import names
from ..render.ipvs import DEVICE
from ..render.leftovers import GO_SETS, removal_script

log = logging.getLogger(__name__)
TABLES = ("nat", "filter", "mangle")  # in the last one Go kube-proxy keeps a canary
Keeps = Callable[[Variant | None, Family], bool]


def nothing(_: Variant | None, __: Family) -> bool:
    """Keep nothing."""
    return False


def tables_of(families: Sequence[Family]) -> Keeps:
    """Keep the nft tables of these families."""
    return lambda variant, family: variant is None and family in families


async def remove(
    nft: Nft, chains: Iptables, keeps: Keeps = nothing, *, servers: bool = True, excluded: Sequence[IPNetwork] = (),
    counting: bool = False, theirs: bool = True,
) -> None:
    """Remove it all, but what is ours where `keeps` says so: in which iptables, None being nftables, and which family.

    `counting` says that the table that counts beside chains stays. `servers` says whether that includes the virtual servers, but
    those in the networks `excluded`. `Busy` where some still have connections. Without `theirs`, what is Go kube-proxy's stays,
    and the virtual servers are if its sets are there.
    """
    there = await nft.list_tables()
    for family in Family:
        doomed = [*([] if keeps(None, family) else [names.TABLE]), *([] if counting else [names.TRAFFIC_TABLE]),
                  *([names.GO_TABLE] if theirs else [])]
        for table in (f"{family.nft} {name}" for name in doomed):
            if table in there:
                log.info("removing table %s", table)
                await nft.load(f"delete table {table}\n")
    for variant in await chains.variants():
        for family in Family:
            legacy = chains.registered(family) if variant is Variant.LEGACY else {}
            for table in TABLES:
                if table in legacy if variant is Variant.LEGACY else f"{family.nft} {table}" in there:
                    ours = not keeps(variant, family)
                    await _remove_chains(chains, variant, family, table, ours=ours, theirs=theirs)
    sets = await their_sets()
    if theirs and sets:
        await remove_sets(sets)
    if servers and (theirs or not sets):
        await remove_servers(excluded, at_once=keeps is nothing)


async def their_sets() -> list[str]:
    """The sets of Go kube-proxy's ipvs mode."""
    return [name for name in await Ipset().names() if GO_SETS.fullmatch(name)] if shutil.which("ipset") else []


async def remove_sets(found: Sequence[str]) -> None:
    """Remove sets that no rule is left to use."""
    log.info("removing %d sets of Go kube-proxy", len(found))
    try:
        await Ipset().restore("".join(f"destroy {name}\n" for name in found))
    except Fault as error:
        log.warning("some sets of Go kube-proxy stay: %s", error)


async def remove_servers(excluded: Sequence[IPNetwork], *, at_once: bool) -> None:
    """Remove the virtual servers and the device with their addresses, if there is that device."""
    if DEVICE not in (name for _, name in socket.if_nameindex()):
        return
    from nodecore.kernel.ipvs import Ipvs
    from nodecore.kernel.netlink import KernelNetwork

    from .virtual_servers import clear

    with closing(Ipvs()) as ipvs, closing(KernelNetwork()) as network:
        if not await clear(ipvs, network, excluded, at_once=at_once):
            raise Busy("virtual servers of ipvs mode still have connections")


async def _remove_chains(chains: Iptables, variant: Variant, family: Family, table: str, *, ours: bool,
                         theirs: bool) -> None:
    try:
        script = removal_script(table, await chains.save(variant, family, table), ours=ours, theirs=theirs)
        if script:
            log.info("removing Service chains from %s of %stables-%s", table, family.nft, variant.value)
            await chains.restore(variant, family, script)
    except Busy:
        raise
    except Fault as error:
        log.warning("%s of %stables-%s stays as it is: %s", table, family.nft, variant.value, error)
