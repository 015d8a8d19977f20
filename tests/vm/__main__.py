"""`python -m tests.vm build` and `python -m tests.vm run [OPTIONS] -- COMMAND`.

Read next: `tests/vm/image.py`, `tests/vm/machine.py`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from nodecore.daemon.entry import run as run_command
from tests.vm import image, machine


def say(text: str) -> None:
    """A line for whoever waits."""
    click.echo(text, err=True)


def show(part: bytes) -> None:
    """What the machine prints, as it comes."""
    sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def command() -> None:
    """A virtual machine with Debian 12, its 6.1 kernel and this checkout."""


@command.command()
def build() -> None:
    """Build what is missing of the machine's disk."""
    with image.only_one():
        image.build(say)
    disk = image.cache() / "disk.ext4"
    say(f"{disk}: {disk.stat().st_blocks * 512 >> 20} MiB")


@command.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--cgroups", type=click.Choice(list(machine.CGROUPS)), default="v2", help="Which hierarchies systemd mounts.")
@click.option("--init", type=click.Choice(list(machine.INITS)), default="systemd", help="Pid 1; none: a script of twenty lines.")
@click.option("--memory", default=2048, help="MiB.")
@click.option("--cpus", default=2, help="Virtual CPUs.")
@click.option("--append", default="", help="More words for the kernel's command line.")
@click.option("--timeout", default=1500.0, help="Seconds until the machine is ended.")
@click.option("--results", type=click.Path(path_type=Path), default=None, help="Where files from $RESULTS are put.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
def run(words: tuple[str, ...], timeout: float, results: Path | None, **shape: str | int) -> None:
    """Run a command (bash, as root, in the checkout) in a fresh machine; its exit code is ours."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the machine and its files go with us
    with image.only_one():
        image.build(say)
        done = machine.run(" ".join(words), machine.Shape(**shape), seconds=timeout, heard=show)  # type: ignore[arg-type]
    for name, content in done.files.items() if results else ():
        target = Path(results or ".") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    say(f"{done.booted:7.1f} s boot\n{done.seconds:7.1f} s in all, exit code {done.exit_code}")
    sys.exit(done.exit_code)


if __name__ == "__main__":
    run_command(lambda: command(prog_name="python -m tests.vm"), "vm")
