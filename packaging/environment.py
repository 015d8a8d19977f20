"""Writes packaging/systemd/*.env: every flag of every agent as a commented variable, with its help and its default.

    .venv/bin/python packaging/environment.py     tests/packaging/test_units.py says when that is due

Read next: `packaging/systemd/`, `minik8s/install/`.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import textwrap
from pathlib import Path

import click

UNITS = Path(__file__).parent / "systemd"
AGENTS = {  # the file: where the command is, what the names of its variables begin with
    "flanneld-py": ("flanneld_py.__main__", "FLANNELD"),
    "kube-proxy-py": ("proxy.__main__", "KUBE_PROXY"),
    **{f"minik8s-{part}": (f"minik8s.{part}.__main__", f"MINIK8S_{part.upper()}")
       for part in ("apiserver", "controllers", "scheduler", "kubelet")},
}
ONCE = {"version", "help", "dry_run", "cleanup", "write_config_to", "init_only"}  # these do something and end
HEAD = """# The flags of {name}, read by {name}.service. A line counts without its #; a value with blanks needs quotes.
# After a change: systemctl restart {name}
"""
ETCD = "minik8s-etcd"
ETCD_ONCE = {"config-file"}  # with it, etcd hears no variable at all


def variable(option: click.Parameter, prefix: str) -> str:
    """The name in the environment of a flag."""
    return str(option.envvar or f"{prefix}_{(option.name or '').upper()}")


def text_of(name: str) -> str:
    """The environment file of an agent."""
    module, prefix = AGENTS[name]
    lines = [HEAD.format(name=name)]
    for option in importlib.import_module(module).command.params:
        if isinstance(option, click.Option) and option.name not in ONCE:
            flag = max(option.opts, key=len)
            lines += textwrap.wrap(f"{flag}: {option.help}", 118, initial_indent="# ", subsequent_indent="#   ")
            lines.append(f"#{variable(option, prefix)}={default(option)}\n")
    return "\n".join(lines)


def text_of_etcd() -> str:
    """The environment file of etcd, out of what the one that is installed says of itself: names and values, it has the words."""
    said = subprocess.run(["etcd", "--help"], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    for line in said.stdout.splitlines() or said.stderr.splitlines():
        if heading := re.fullmatch(r"(\w[\w /()-]*):", line):
            group = found.setdefault(heading[1], [])
        elif (flag := re.match(r"  --([\w-]+)(?: '(?!math\.)([^']*)')?", line)) and flag[1] not in ETCD_ONCE:
            group.append(f"#ETCD_{flag[1].upper().replace('-', '_')}={flag[2] or ''}\n")
    head = HEAD.format(name=ETCD) + "# What each means: etcd --help\n"
    return head + "".join(f"\n# {heading}\n{''.join(lines)}" for heading, lines in found.items() if lines)


def default(option: click.Option) -> str:
    """What counts where nothing is said, as far as it is one word."""
    value = option.to_info_dict()["default"]  # None where none is said; the attribute is a mark of click's own then
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or callable(value) or isinstance(value, tuple) else str(value)


def main() -> None:
    """Write them all."""
    for name in AGENTS:
        (UNITS / f"{name}.env").write_text(text_of(name))
    (UNITS / f"{ETCD}.env").write_text(text_of_etcd())


if __name__ == "__main__":
    main()
