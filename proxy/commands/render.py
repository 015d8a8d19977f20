"""`kube-proxy-py render`: the rules for Services and EndpointSlices in files, on standard output. No cluster, no root.

Read next: `proxy/sources.py`, `proxy/render/nftables.py`.
"""

from __future__ import annotations

from typing import Any

import click

from nodecore.errors import UserError
from proxy.options import CONTEXT, config_of, flag_options

FILES = click.Option(["-f", "--filename", "files"], multiple=True,
                     help="A file of Services, EndpointSlices and Nodes, YAML or JSON; `-` for standard input. May be repeated.")


def start(*, files: tuple[str, ...], **given: Any) -> None:
    """Read and print; what is skipped is said on standard error."""
    if not files:
        raise UserError("-f: which file?")
    import logging

    from proxy.agent import rules_of
    from proxy.sources import from_objects, read_files

    logging.disable(logging.WARNING)  # it is said below
    picture = from_objects(config_of(given), read_files(files))
    rules, empty = rules_of(picture.config, picture.snapshot), not picture.snapshot.dirty
    click.echo(rules.dry_run(), nl=False)
    for item in rules.skipped:
        click.echo(str(item), err=True)
    if empty:
        click.echo(f"there is no Service in {' '.join(files)}", err=True)


command = click.Command(
    "render", callback=start, params=[FILES, *flag_options()], context_settings=CONTEXT,
    help="Print the rules for the Services of files. --hostname-override says on which node, --proxy-mode in which mode.",
)
