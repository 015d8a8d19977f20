"""`kube-proxy-py`: kube-proxy's flags, by its names. Heavy imports wait until they are needed.

A plain command, as the original; only where the first word is one of `COMMANDS` is it that sub-command.
Read next: `proxy/config.py`, then `proxy/agent.py`.
"""

from __future__ import annotations

import json
import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from nodecore.daemon import entry, logs

from . import config as settings
from .options import config_of, flag_options

NAME = "kube-proxy-py"
COMMANDS = {name: f"proxy.commands.{name}" for name in ("render", "explain", "diff")}
log = logging.getLogger(__name__)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001
    if wanted:
        from importlib import metadata

        click.echo(f"{NAME}, version {metadata.version('flanneld-py')}")
        context.exit()


def start(
    *, write_config_to: str | None, cleanup: bool, init_only: bool, dry_run: bool, verbosity: int, vmodule: str | None,
    **given: Any,
) -> None:
    """Read the flags and do what they ask for."""
    config = config_of(given)
    logs.setup(verbosity, vmodule or "")
    for told in config.unused:
        log.warning("%s", told)

    import asyncio

    from . import agent

    if write_config_to:
        Path(write_config_to).write_text(json.dumps(settings.to_document(config), indent=2) + "\n")
    elif cleanup:
        asyncio.run(agent.clean_up(config))
    elif init_only:
        agent.prepare(config)
    elif dry_run:
        from .sources import from_api

        picture = asyncio.run(from_api(config))
        click.echo(agent.rules_of(picture.config, picture.snapshot).dry_run(), nl=False)
    else:
        asyncio.run(agent.run(config))


command = click.Command(
    NAME,
    callback=start,
    params=[
        *flag_options(),
        click.Option(["--write-config-to"], help="Write the configuration as it counts to this file and exit."),
        click.Option(["--cleanup"], is_flag=True, help="Remove our rules and exit."),
        click.Option(["--init-only"], is_flag=True, help="Set what only root may set and exit."),
        click.Option(["--dry-run"], is_flag=True, help="Print what would be written and exit."),
        click.Option(["-v", "--v", "verbosity"], type=int, default=0, help="Verbosity; 4 and up is debugging."),
        click.Option(["--vmodule", "vmodule"], help="Verbosity by file: `agent=4,tar*=0`."),
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version,
                     help="Print the version and exit."),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "KUBE_PROXY"},
    help="Answer for Services on this node: a drop-in for kube-proxy.",
)


def invoke() -> None:
    """Run the command, or the sub-command that is the first word."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        import_module(COMMANDS[words[0]]).command(words[1:], prog_name=f"{NAME} {words[0]}")
    else:
        command(words, prog_name=NAME)


def main() -> None:
    """Run, and end with the exit code an error deserves."""
    entry.run(invoke, NAME)


if __name__ == "__main__":
    main()
