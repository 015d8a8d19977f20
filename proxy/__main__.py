"""`kube-proxy-py`: kube-proxy's flags, by its names. Heavy imports wait until they are needed.

A plain command, as the original; only where the first word is one of `COMMANDS` is it that sub-command.
Read next: `proxy/config.py`, then `proxy/agent.py`.
"""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from nodecore.daemon import entry, logs
from nodecore.errors import UserError

from . import config as settings
from .options import CONTEXT, config_of, flag_options

NAME = "kube-proxy-py"
COMMANDS = {name: f"proxy.commands.{name}" for name in ("render", "explain", "diff")}
log = logging.getLogger(__name__)


def _version(context: click.Context, _: click.Parameter, wanted: str) -> None:
    if wanted != "false":
        from importlib import metadata

        click.echo(f"{NAME}, version {metadata.version('flanneld-py')}")
        context.exit()


def start(
    *, write_config_to: str | None, cleanup: bool, init_only: bool, dry_run: bool, verbosity: int | None, vmodule: str | None,
    **given: Any,
) -> None:
    """Read the flags and do what they ask for."""
    config = config_of(given)
    logs.setup(config.verbosity if verbosity is None else verbosity, config.vmodule if vmodule is None else vmodule)
    for told in config.unused:
        log.warning("%s", told)

    import asyncio

    from . import agent

    if write_config_to:
        write_document(config, write_config_to)
    elif cleanup:
        asyncio.run(agent.clean_up(config))
    elif init_only:
        agent.prepare(agent.of_this_kernel(config))
    elif dry_run:
        from .sources import from_api

        picture = asyncio.run(from_api(config))
        click.echo(agent.rules_of(picture.config, picture.snapshot).dry_run(), nl=False)
    else:
        file = given["config_file"]
        asyncio.run(agent.run(config, file or "", partial(config_of, given) if file else None))


def write_document(config: settings.Config, path: str) -> None:
    """As the file of --config."""
    try:
        Path(path).write_text(json.dumps(settings.to_document(config), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--write-config-to: {path}: {error.strerror}") from None


def _switch(name: str, text: str, **more: Any) -> click.Option:
    """That may stand alone or be given a value, as Go's."""
    return click.Option([f"--{name}"], type=click.BOOL, is_flag=False, flag_value=True, default=False, help=text, **more)


command = click.Command(
    NAME,
    callback=start,
    params=[
        *flag_options(),
        click.Option(["--write-config-to"], help="Write the configuration as it counts to this file and exit."),
        _switch("cleanup", "Remove our rules and exit."),
        _switch("init-only", "Set what only root may set and exit."),
        _switch("dry-run", "Print what would be written and exit."),
        click.Option(["-v", "--v", "verbosity"], type=int, help="Verbosity; 4 and up is debugging."),
        click.Option(["--vmodule", "vmodule"], help="Verbosity by file: `agent=4,tar*=0`."),
        click.Option(["--version"], type=click.Choice(["true", "false", "raw"]), is_flag=False, flag_value="true",
                     default="false", is_eager=True, expose_value=False, callback=_version, help="Print the version and exit."),
    ],
    context_settings={**CONTEXT, "auto_envvar_prefix": "KUBE_PROXY"},
    help="Answer for Services on this node: a drop-in for kube-proxy.",
)


def invoke() -> None:
    """Run the command, or the sub-command that is the first word."""
    words = [f"-{word}" if word.startswith("-v=") else word for word in sys.argv[1:]]  # -v=2: click takes the = for its value
    if words and words[0] in COMMANDS:
        import_module(COMMANDS[words[0]]).command(words[1:], prog_name=f"{NAME} {words[0]}")
    else:
        command(words, prog_name=NAME)


def main() -> None:
    """Run, and end with the exit code an error deserves."""
    entry.run(invoke, NAME)


if __name__ == "__main__":
    main()
