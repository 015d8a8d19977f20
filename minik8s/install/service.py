"""systemd's own commands: daemon-reload, enable, restart, users, directories.

Must not know: what the units do. Read next: `writing.py`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from minik8s.install.plan import PORTS, PROGRAMS
from nodecore.errors import Fault, UserError

UNFINISHED = Path("/run/minik8s-install")  # there from the first write to the start
USERS = ("minik8s", "minik8s-etcd")
CLEAN_UP = {"minik8s-kubelet": ("minik8s", "kubelet"), "kube-proxy-py": ("kube-proxy-py",), "flanneld-py": ("flanneld-py",)}
BRIDGE = "cni0"  # of the CNI plugin that flannel's delegates to


def present() -> bool:
    """Whether this machine's pid 1 is systemd."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def require() -> None:
    """Raise `UserError` where it is not."""
    if not present():
        raise UserError("systemd does not run here: --no-start only writes the files")


def require_room(units: Sequence[str], root: Path = Path("/")) -> None:
    """Raise `UserError` for what services could not start without: a program, or a port that somebody else has."""
    for program, package in (PROGRAMS[unit] for unit in units if unit in PROGRAMS):
        if shutil.which(program) is None:
            raise UserError(f"{program}: not installed; Debian's package is {package}")
    for unit in (unit for unit in units if unit in PORTS):
        if told_otherwise(root / "etc/minik8s" / f"{unit}.env") or main_pid(unit):
            continue
        address, ports = PORTS[unit]
        for port in ports:
            try:
                socket.create_server((address, port)).close()
            except OSError as error:
                why = os.strerror(error.errno or 0)
                raise UserError(f"port {port}, which {unit} needs: {why}; `ss -ltnp sport = {port}` says who has it") from None


def told_otherwise(file: Path) -> bool:
    """Whether the administrator's file says anything: a port, it may be."""
    return file.exists() and any(line.strip() and not line.startswith("#") for line in file.read_text().splitlines())


def main_pid(unit: str) -> int:
    """The process of a service that runs, else 0."""
    done = subprocess.run(["systemctl", "show", "-P", "MainPID", unit], capture_output=True, text=True, check=False)
    return int(done.stdout.strip() or 0)


def prepare() -> None:
    """Users and directories, and the units read anew."""
    call("systemd-sysusers")
    call("systemd-tmpfiles", "--create")
    call("systemctl", "daemon-reload")
    call("systemctl", "restart", "systemd-modules-load", check=False)  # at the next boot it would do so by itself


def begin() -> bool:
    """Whether an installation before this one was cut short: what it wrote, it did not start."""
    found = UNFINISHED.exists()
    UNFINISHED.touch()
    return found


def clean_up(commands: Path, units: Sequence[str]) -> None:
    """Have the agents of these units take away what they left: pods first, whose network needs the rest."""
    for unit in (unit for unit in CLEAN_UP if unit in units):
        program, *words = CLEAN_UP[unit]
        call(str(commands / program), *words, "--cleanup")
        click.echo(f"cleaned  {unit}")
    if "minik8s-kubelet" in units and call("ip", "link", "delete", BRIDGE, check=False):
        click.echo(f"removed  {BRIDGE}")


def forget_users() -> None:
    """The services' users, who own nothing any more."""
    for user in USERS:
        if call("userdel", user, check=False):
            click.echo(f"removed  user {user}")


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
