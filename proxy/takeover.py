"""Removes rules for Services that are not ours to keep: of our other modes, and all of Go kube-proxy's.

Only called when what is to stay stands, so that a switch has no moment without rules. Tables are looked at only if they
exist: looking at a legacy one would make it.

Must not know: what is in force. Read next: `proxy/render/leftovers.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from nodecore.errors import Busy, Fault
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.nft import Nft
from nodecore.kernel.ports import Variant
from nodecore.net import Family

from . import names
from .render.leftovers import removal_script

log = logging.getLogger(__name__)
TABLES = ("nat", "filter", "mangle")  # in the last one Go kube-proxy keeps a canary
Keeps = Callable[[Variant | None, Family], bool]


def nothing(_: Variant | None, __: Family) -> bool:
    """Keep nothing."""
    return False


async def remove(nft: Nft, chains: Iptables, keeps: Keeps = nothing) -> None:
    """Remove it all, but what is ours where `keeps` says so: in which iptables, None being nftables, and which family."""
    there = await nft.list_tables()
    for family in Family:
        if f"{family.nft} {names.TABLE}" in there and not keeps(None, family):
            log.info("removing table %s %s", family.nft, names.TABLE)
            await nft.load(f"delete table {family.nft} {names.TABLE}\n")
    for variant in await chains.variants():
        for family in Family:
            legacy = chains.registered(family) if variant is Variant.LEGACY else {}
            for table in TABLES:
                if table in legacy if variant is Variant.LEGACY else f"{family.nft} {table}" in there:
                    await _remove_chains(chains, variant, family, table, ours=not keeps(variant, family))


async def _remove_chains(chains: Iptables, variant: Variant, family: Family, table: str, *, ours: bool) -> None:
    try:
        script = removal_script(table, await chains.save(variant, family, table), ours=ours)
        if script:
            log.info("removing Service chains from %s of %stables-%s", table, family.nft, variant.value)
            await chains.restore(variant, family, script)
    except Busy:
        raise
    except Fault as error:
        log.warning("%s of %stables-%s stays as it is: %s", table, family.nft, variant.value, error)
