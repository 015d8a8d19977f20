"""The flags of `proxy/flags.py` as click options, and the configuration they come to. Every command takes them all.

Read next: `proxy/config.py`.
"""

from __future__ import annotations

from typing import Any

import click

from . import config as settings
from .flags import FLAGS, Flag

CONTEXT: dict[str, Any] = {  # of every command; kube-proxy takes --proxy_mode as well
    "help_option_names": ["-h", "--help"], "token_normalize_func": lambda word: word.replace("_", "-")}


def flag_options() -> list[click.Option]:
    """kube-proxy's flags, and the file that may stand for them."""
    file = click.Option(["--config", "config_file"], help="A KubeProxyConfiguration, YAML or JSON; flags given as well win.")
    return [*map(_option, FLAGS), file]


def _option(flag: Flag) -> click.Option:
    """A click option; booleans may stand alone or be given a value, as Go's. Not given is told from given."""
    names = [f"--{name}" for name in (flag.name, *flag.also)]
    kind: Any = {"type": str if flag.many else type(flag.default)}
    if isinstance(flag.default, bool):
        kind = {"type": click.BOOL, "is_flag": False, "flag_value": True}
    default = f"  [default: {flag.default}]" if flag.default not in ("", (), False) and not flag.unused else ""
    return click.Option([*names, flag.name.replace("-", "_")], default=None, multiple=flag.many, help=flag.help + default, **kind)


def config_of(given: dict[str, Any]) -> settings.Config:
    """What click was given, `config_file` included, as a checked configuration."""
    file = given.get("config_file")
    flags = {name.replace("_", "-"): value for name, value in given.items() if value not in (None, ()) and name != "config_file"}
    return settings.build(flags, settings.read_file(file) if file else None)
