"""systemd's own commands: daemon-reload, enable, restart, users, directories.

Must not know: what the units do. Read next: `writing.py`.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from nodecore.errors import Fault, UserError


def present() -> bool:
    """Whether this machine's pid 1 is systemd."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def require() -> None:
    """Raise `UserError` where it is not."""
    if not present():
        raise UserError("systemd does not run here: --no-start only writes the files")


def prepare() -> None:
    """Users and directories, and the units read anew."""
    call("systemd-sysusers")
    call("systemd-tmpfiles", "--create")
    call("systemctl", "daemon-reload")
    call("systemctl", "restart", "systemd-modules-load", check=False)  # at the next boot it would do so by itself


def start(units: Sequence[str], *, changed: bool) -> None:
    """Have them now and at every boot; what runs is started anew if what it was started with has changed."""
    call("systemctl", "enable", "--quiet", "--no-reload", *units)
    services = [unit for unit in units if unit.endswith(".service")]  # a target's restart would be one more of each of them
    call("systemctl", "restart" if changed else "start", "--no-block", *services)
    call("systemctl", "start", "--no-block", *units)
    click.echo(f"started  {' '.join(units)}")


def stop(units: Sequence[str]) -> None:
    """End them and have them no more; those that are not there are not asked."""
    known = [unit for unit in units if call("systemctl", "cat", unit, check=False)]
    if known:
        call("systemctl", "disable", "--now", "--quiet", *known)
        click.echo(f"stopped  {' '.join(known)}")


def call(*argv: str, check: bool = True) -> bool:
    """Run a command to its end; `Fault` with its last line when it fails."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    if done.returncode and check:
        raise Fault(f"{' '.join(argv)}: {done.stdout.strip().rpartition(chr(10))[2] or done.returncode}")
    return done.returncode == 0
