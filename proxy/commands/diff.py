"""`kube-proxy-py diff`: what the kernel holds against what the API asks for. Exit code 1 where they differ.

Read next: `proxy/compare.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nodecore.errors import UserError
from proxy.commands.render import FILES
from proxy.options import config_of, flag_options

if TYPE_CHECKING:
    from proxy.sources import Picture


def start(*, files: tuple[str, ...], **given: Any) -> None:
    """Look at both, and say what is not the same."""
    import asyncio
    import logging

    from proxy.sources import take

    logging.disable(logging.WARNING)
    config = config_of(given)
    if config.mode != "nftables":
        raise UserError(f"--proxy-mode: diff reads the tables of nftables mode, not those of {config.mode}")
    lines = asyncio.run(compared(asyncio.run(take(config, files))))
    click.echo("\n".join(lines) or "the kernel has what it should")
    if lines:
        raise SystemExit(1)


async def compared(picture: Picture) -> list[str]:
    """The differences, of all families."""
    from nodecore.kernel.nft import Nft
    from proxy import names
    from proxy.agent import rules_of
    from proxy.compare import differences, read_listing
    from proxy.ledger import Delta
    from proxy.modes import layouts

    ledgers = rules_of(picture.config, picture.snapshot).desired()
    lines: list[str] = []
    for layout in layouts(picture.config):
        listing = await Nft().list_table(layout.family.nft, names.TABLE)
        if listing is None:
            lines.append(f"all Services: there is no {layout.where}: is the proxy running?")
            continue
        fixed = read_listing(layout.full_script(Delta())).chains
        lines += differences(ledgers[layout.family], fixed, read_listing(listing))
    return lines


command = click.Command(
    "diff", callback=start, params=[FILES, *flag_options()], context_settings={"help_option_names": ["-h", "--help"]},
    help="Say where the kernel's rules differ from what the API, or files, ask for. Needs root.",
)
