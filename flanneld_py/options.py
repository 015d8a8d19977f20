"""The flags as click options, for the daemon and for what shares its flags.

Must not know: what they mean. Read next: `flanneld_py/config.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from flanneld_py.config import FLAGS, Flag, Settings, build_settings


def flag_options() -> list[click.Option]:
    """All of them."""
    return [_option(flag) for flag in FLAGS]


def settings_of(given: Mapping[str, Any]) -> Settings:
    """What click has read, checked; raises `UserError`."""
    return build_settings({flag.name: given[flag.name.replace("-", "_")] for flag in FLAGS})


def _option(flag: Flag) -> click.Option:
    """A click option; booleans may stand alone or be given a value, as Go's."""
    names = [f"--{flag.name}", f"-{flag.name}", flag.name.replace("-", "_")]
    kind: Any = {"type": type(flag.default)}
    if isinstance(flag.default, bool):
        kind = {"type": click.BOOL, "is_flag": False, "flag_value": True}
    return click.Option(
        names, default=() if flag.many else flag.default, multiple=flag.many, help=flag.help, show_default=bool(flag.default),
        envvar=f"FLANNELD_{flag.name.upper().replace('-', '_')}", **kind,
    )
