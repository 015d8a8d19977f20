"""`flanneld-py`: Go flanneld's flags, by its names. Heavy imports wait until they are needed.

A plain command, as the original; only where the first word is one of `COMMANDS` is it that sub-command.
Read next: `flanneld_py/agent.py`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from flanneld_py.config import FLAGS
from flanneld_py.options import flag_options, settings_of
from nodecore.daemon import entry
from nodecore.errors import UserError

NAME = "flanneld-py"
COMMANDS = {"mk-docker-opts": "flanneld_py.dockeropts", "show": "flanneld_py.show"}


def start(*, dry_run: bool, version: bool, cleanup: bool, **given: Any) -> None:
    """Read the flags and run."""
    if version:
        from importlib import metadata

        click.echo(f"v{metadata.version('flanneld-py')}", err=True)  # as flannel: on stderr
        return
    settings = settings_of(given)

    import asyncio

    from nodecore.daemon import logs

    logs.setup(settings.verbosity, settings.vmodule, settings.log_backtrace_at)
    if cleanup:
        from flanneld_py.cleanup import clean_up

        asyncio.run(clean_up(settings, rehearsal=dry_run))
        return

    if dry_run:
        from flanneld_py import rehearsal

        asyncio.run(rehearsal.dry_run(settings))
        return

    from flanneld_py import agent

    asyncio.run(agent.run(settings))


command = click.Command(
    NAME,
    callback=start,
    params=[
        *flag_options(),
        click.Option(["--dry-run", "-dry-run", "dry_run"], is_flag=True, help="Print what would be written and exit."),
        click.Option(["--cleanup", "-cleanup", "cleanup"], is_flag=True,
                     help="Remove what a flanneld left on this node, and exit; with --dry-run only say what."),
        click.Option(["--version", "-version", "version"], is_flag=True, help="Print the version and exit."),
    ],
    context_settings={"help_option_names": ["--help", "-help", "-h"]},
    help="Give this node a subnet for its pods and a way to everybody else's: a drop-in for Go flanneld.",
)


def invoke(arguments: Sequence[str] | None = None) -> None:
    """Run the command; what click complains about becomes a `UserError`."""
    given = sys.argv[1:] if arguments is None else arguments
    words = [f"-{word}" if word.startswith("-v=") else word for word in given]  # click takes the = of a short flag for its value
    name = Path(sys.argv[0]).name.removesuffix(".sh")
    if name in COMMANDS:
        words.insert(0, name)
    chosen, prefix = command, NAME
    if words and words[0] in COMMANDS:
        chosen, prefix = import_module(COMMANDS[words[0]]).command, f"{NAME} {words.pop(0)}"
    try:
        chosen.main(args=words, prog_name=prefix, standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.NoSuchOption as error:
        raise UserError(f"there is no flag {_as_given(error.option_name, words)}") from None
    except click.ClickException as error:
        raise UserError(error.format_message().replace("\n", " ")) from None


def _as_given(option: str, arguments: Sequence[str]) -> str:
    """The flag as the user wrote it: of `-nosuch`, click only tells `-n`."""
    known = {f"--{flag.name}" for flag in FLAGS}
    names = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    return next((name for name in names if name.startswith(option) and "--" + name.lstrip("-") not in known), option)


def main() -> None:
    """Entry point. What is imported is no garbage: collecting starts when the store opens."""
    gc.disable()
    entry.run(invoke, NAME)


if __name__ == "__main__":
    main()
