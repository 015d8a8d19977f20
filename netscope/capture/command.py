"""What `netscope capture` was asked for, and which way it is done: at the end, while it runs, or when there is a fault.

Read next: `recording.py`, `streaming.py`, `freezing.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import click

from netscope.capture import freezing
from netscope.capture.files import STDOUT, Files, Rotation
from netscope.capture.keeping import Limits
from netscope.capture.recording import Tap, record
from netscope.capture.streaming import stream
from netscope.capture.tapping import Wish
from netscope.directory import Directory
from nodecore.errors import UserError

MB = 1_000_000
FOR_EVER = 1e9
SECONDS = 10.0


@dataclass(frozen=True)
class Options:
    """The flags."""

    path: str
    protocol: str | None
    port: Sequence[int]
    seconds: float | None
    live: bool
    file_mb: float
    file_seconds: float
    files: int
    ring_mb: float
    ring_packets: int
    ring_seconds: float
    freeze_on: str
    after: float
    metrics: Sequence[str]
    kubeconfig: str
    via: str

    @property
    def limits(self) -> Limits | None:
        """What each node keeps back; with --freeze-on always something."""
        found = Limits(int(self.ring_mb * MB), self.ring_packets, self.ring_seconds)
        return found if found != Limits() else Limits(64 * MB) if self.freeze_on else None

    def wish(self, hosts: Sequence[str]) -> Wish:
        """Which packets."""
        return Wish(hosts, self.protocol or "", self.port)

    @property
    def rotation(self) -> Rotation:
        """When another file is begun."""
        return Rotation(int(self.file_mb * MB), self.file_seconds, self.files)

    @property
    def at_once(self) -> bool:
        """Whether packets are written as they come."""
        return self.live or self.path == STDOUT or self.rotation.rotates


def checked(options: Options) -> Options:
    """The same, or what about the flags makes no sense."""
    if options.at_once and options.limits:
        raise UserError("--ring-mb, --ring-packets, --ring-seconds, --freeze-on: what nodes keep back is written at the end, "
                        "not while packets come (--live, -w -, --file-mb, --file-seconds)")
    if options.files and not options.rotation.rotates:
        raise UserError("--files: with --file-mb or --file-seconds only")
    if options.freeze_on:
        freezing.parse(options.freeze_on)
    return options


def run(options: Options, directory: Directory, hosts: Sequence[str]) -> None:
    """Capture, and say what was lost."""
    if options.at_once:
        files = Files(options.path, options.rotation)
        lost = stream(directory, options.via, options.wish(hosts), options.seconds or FOR_EVER, files, lambda: _begun(directory))
    else:
        lost = _at_the_end(options, directory, hosts)
    words = f"{lost} packets came too fast and are missing" if lost else "nothing was lost"
    click.echo(f"{options.path}: {words}", err=True)


def _begun(directory: Directory) -> None:
    click.echo(f"capturing on {len(directory.nodes)} nodes; Ctrl-C ends it", err=True)


def _at_the_end(options: Options, directory: Directory, hosts: Sequence[str]) -> int:
    faults = freezing.parse(options.freeze_on) if options.freeze_on else frozenset()

    def wait(taps: Sequence[Tap]) -> None:
        _begun(directory)
        with suppress(KeyboardInterrupt):
            if not faults:
                time.sleep(options.seconds or SECONDS)
            elif words := freezing.wait(taps, faults, options.kubeconfig, options.seconds or FOR_EVER):
                click.echo(f"frozen: {words}", err=True)
                time.sleep(options.after)

    wish = replace(options.wish(hosts), limits=options.limits, resets=freezing.RST in faults,
                   metrics=options.metrics if freezing.SYNC in faults else ())
    with open(options.path, "wb") as file:
        return record(directory, options.via, wish, wait, file)
