"""`kube-proxy-py`: kube-proxy's flags, by its names. Heavy imports wait until they are needed.

Read next: `proxy/config.py`, then `proxy/agent.py`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click

from nodecore.daemon import entry, logs

from . import config as settings
from .flags import FLAGS, Flag

NAME = "kube-proxy-py"
log = logging.getLogger(__name__)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001
    if wanted:
        from importlib import metadata

        click.echo(f"{NAME}, version {metadata.version('flanneld-py')}")
        context.exit()


def _option(flag: Flag) -> click.Option:
    """A click option; booleans may stand alone or be given a value, as Go's. Not given is told from given."""
    names = [f"--{name}" for name in (flag.name, *flag.also)]
    kind: Any = {"type": str if flag.many else type(flag.default)}
    if isinstance(flag.default, bool):
        kind = {"type": click.BOOL, "is_flag": False, "flag_value": True}
    default = f"  [default: {flag.default}]" if flag.default not in ("", (), False) and not flag.unused else ""
    return click.Option([*names, flag.name.replace("-", "_")], default=None, multiple=flag.many, help=flag.help + default, **kind)


def start(
    *, config_file: str | None, write_config_to: str | None, cleanup: bool, init_only: bool, dry_run: bool, verbosity: int,
    vmodule: str | None, **flags: Any,
) -> None:
    """Read the flags and do what they ask for."""
    given = {name.replace("_", "-"): value for name, value in flags.items() if value not in (None, ())}
    config = settings.build(given, settings.read_file(config_file) if config_file else None)
    logs.setup(verbosity, vmodule or "")
    for told in config.unused:
        log.warning("%s", told)

    import asyncio

    from . import agent

    if write_config_to:
        Path(write_config_to).write_text(json.dumps(settings.to_document(config), indent=2) + "\n")
    elif cleanup:
        asyncio.run(agent.clean_up())
    elif init_only:
        agent.prepare(config)
    elif dry_run:
        asyncio.run(agent.print_plan(config))
    else:
        asyncio.run(agent.run(config))


command = click.Command(
    NAME,
    callback=start,
    params=[
        *map(_option, FLAGS),
        click.Option(["--config", "config_file"], help="A KubeProxyConfiguration, YAML or JSON; flags given as well win."),
        click.Option(["--write-config-to"], help="Write the configuration as it counts to this file and exit."),
        click.Option(["--cleanup"], is_flag=True, help="Remove our rules and exit."),
        click.Option(["--init-only"], is_flag=True, help="Set what only root may set and exit."),
        click.Option(["--dry-run"], is_flag=True, help="Print what would be written and exit."),
        click.Option(["-v", "--v", "verbosity"], type=int, default=0, help="Verbosity; 4 and up is debugging."),
        click.Option(["--vmodule", "vmodule"], help="Verbosity by file: `agent=4,tar*=0`."),
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version,
                     help="Print the version and exit."),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Answer for Services on this node: a drop-in for kube-proxy.",
)


def main() -> None:
    """Run, and end with the exit code an error deserves."""
    entry.run(lambda: command(prog_name=NAME), NAME)


if __name__ == "__main__":
    main()
