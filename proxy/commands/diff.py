"""`kube-proxy-py diff`: what the kernel holds against what the API asks for. Exit code 1 where they differ.

Read next: `proxy/compare.py`, `proxy/compare_chains.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from proxy.commands.render import FILES
from proxy.options import CONTEXT, config_of, flag_options
from proxy.services import shown

if TYPE_CHECKING:
    from nodecore.net import Family
    from proxy.ledger import Ledger
    from proxy.sources import Picture


def start(*, files: tuple[str, ...], **given: Any) -> None:
    """Look at both, and say what is not the same."""
    import asyncio
    import logging

    from proxy.sources import take

    logging.disable(logging.WARNING)
    lines = asyncio.run(compared(asyncio.run(take(config_of(given), files))))
    click.echo("\n".join(map(shown, lines)) or "the kernel has what it should")
    if lines:
        raise SystemExit(1)


async def compared(picture: Picture) -> list[str]:
    """The differences, of all families."""
    from proxy.agent import rules_of

    look = of_chains if picture.config.mode == "iptables" else of_tables
    return [line async for line in look(picture, rules_of(picture.config, picture.snapshot).desired())]


async def of_tables(picture: Picture, ledgers: Mapping[Family, Ledger]) -> AsyncIterator[str]:
    """nftables and ipvs mode: each family's table, and what the kernel has of virtual servers."""
    from nodecore.kernel.nft import Nft
    from proxy import names
    from proxy.compare import differences, read_listing
    from proxy.ledger import Delta
    from proxy.modes import layouts
    from proxy.render.ipvs import Layout

    for layout in layouts(picture.config):
        listing = await Nft().list_table(layout.family.nft, names.TABLE)
        if listing is None:
            yield f"all Services: there is no {layout.where}: is the proxy running?"
            continue
        table = read_listing(listing)
        if isinstance(layout, Layout):
            table.elements |= await virtual(picture, layout.family)
        for line in differences(ledgers[layout.family], read_listing(layout.full_script(Delta())).chains, table):
            yield line


async def virtual(picture: Picture, family: Family) -> dict[str, dict[str, str]]:
    """Virtual servers, destinations and addresses, as elements by container."""
    from nodecore.kernel.ipvs import Ipvs
    from nodecore.kernel.netlink import KernelNetwork
    from proxy.writers.virtual_servers import VirtualServers

    kernel = Ipvs()
    try:
        found: dict[str, dict[str, str]] = {}
        for item in await VirtualServers(family, kernel, KernelNetwork(), picture.config.ipvs.excluded).read():
            found.setdefault(item.container, {})[item.key] = item.value
        return found
    finally:
        kernel.close()


async def of_chains(picture: Picture, ledgers: Mapping[Family, Ledger]) -> AsyncIterator[str]:
    """iptables mode: our chains, in the variant the host uses."""
    from nodecore.kernel.iptables import Iptables
    from nodecore.kernel.netns import Netns
    from nodecore.kernel.ports import Variant
    from proxy.compare_chains import chain_differences, read_rules
    from proxy.modes import layouts
    from proxy.render.iptables import TABLES

    here = Iptables()
    variant = await here.chosen()
    for layout in layouts(picture.config):
        family, ledger = layout.family, ledgers[layout.family]
        tables = TABLES if variant is Variant.NFT else [table for table in TABLES if table in here.registered(family)]
        kernel = "".join([await here.save(variant, family, table) for table in tables])
        if not read_rules(kernel):
            yield f"all Services: there are no rules of ours in {layout.where}-{variant.value}: is the proxy running?"
            continue
        script = layout.full_script(ledger.everything())
        with Netns.create() as scratch:
            there = Iptables(prefix=("nsenter", f"--net={scratch.path}"))
            await there.restore(variant, family, script)
            worded = "".join([await there.save(variant, family, table) for table in TABLES])
        for line in chain_differences(ledger, script, worded, kernel):
            yield line


command = click.Command(
    "diff", callback=start, params=[FILES, *flag_options()], context_settings=CONTEXT,
    help="Say where the kernel's rules differ from what the API, or files, ask for. Needs root.",
)
