"""What `netscope capture` was asked for, and which way it is done: at the end, while it runs, or when there is a fault.

Read next: `recording.py`, `streaming.py`, `freezing.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from netscope import bpf, filters
from netscope.capture import freezing
from netscope.capture.files import STDOUT, Files, Rotation
from netscope.capture.keeping import Limits
from netscope.capture.recording import Tap, record
from netscope.capture.streaming import stream
from netscope.capture.tally import Tally
from netscope.capture.tapping import Wish
from netscope.directory import Directory, Place
from netscope.flow import PROTOCOLS
from nodecore.errors import Fault, UserError
from nodecore.net import parse_address

MB = 1_000_000
FOR_EVER = 1e9
SECONDS = 10.0
CARRIERS = (10250, 6443)  # kubelets and the API; with loopback, they carry what is captured with --via kubectl


@dataclass(frozen=True)
class Options:
    """The flags."""

    path: str
    inner: str
    outer: str
    protocol: str | None
    port: Sequence[int]
    snaplen: int
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

    @property
    def rotation(self) -> Rotation:
        """When another file is begun."""
        return Rotation(int(self.file_mb * MB), self.file_seconds, self.files)

    @property
    def at_once(self) -> bool:
        """Whether packets are written as they come."""
        return self.live or self.path == STDOUT or self.rotation.rotates


def checked(options: Options, *, without_cluster: bool = False) -> Options:
    """The same, or what about the flags makes no sense."""
    if options.at_once and options.limits:
        raise UserError("--ring-mb, --ring-packets, --ring-seconds, --freeze-on: what nodes keep back is written at the end, "
                        "not while packets come (--live, -w -, --file-mb, --file-seconds)")
    if options.files and not options.rotation.rotates:
        raise UserError("--files: with --file-mb or --file-seconds only")
    if options.protocol == "icmp" and options.port:
        raise UserError("--port: ICMP has none")
    if options.path != STDOUT and not (parent := Path(options.path).parent).is_dir():
        raise UserError(f"--write: {str(parent)!r} is no directory")
    if options.freeze_on and freezing.PROBE in freezing.parse(options.freeze_on) and without_cluster:
        raise UserError(f"--freeze-on: a {freezing.PROBE!r} is an Event of a cluster, and with --host there is none")
    wish_of(options, ())
    return options


def wish_of(options: Options, places: Iterable[Place]) -> Wish:
    """Which packets are to be captured, and of whom."""
    ends = list(dict.fromkeys(end for place in places for end in place.reached_at))
    asked = []
    if ends or options.protocol or options.port:
        found = [(parse_address(address), port, protocol) for address, port, protocol in ends]
        asked.append(bpf.of_ends(found, PROTOCOLS.get(options.protocol or "", 0), options.port))
    if options.outer or options.inner:
        from netscope.capture.expression import compiled

        asked += [compiled(options.outer, "--outer-filter")] if options.outer else []
        asked += [filters.at_innermost(compiled(options.inner, "--filter"))] if options.inner else []
    if options.via == "kubectl":
        asked.append(filters.none_of(bpf.of_ends((), PROTOCOLS["tcp"], CARRIERS)))
        asked.append(filters.none_of(bpf.of_ends([(parse_address(host), 0, 0) for host in ("127.0.0.1", "::1")])))
    program = filters.cut(filters.all_of(asked or [bpf.of_everything()]), options.snaplen)
    if len(program) > bpf.LARGEST:
        raise UserError(f"{len(ends)} addresses and ports make a filter larger than the kernel takes: name fewer, or whole "
                        "networks by --filter 'net ...'")
    return Wish(tuple(dict.fromkeys(address for address, _, _ in ends)), program)


def run(options: Options, directory: Directory, places: Sequence[Place], nodes: Sequence[str]) -> None:
    """Capture, and say what was lost."""
    wish, tally = wish_of(options, places), Tally()
    try:
        if options.at_once:
            files = Files(options.path, options.rotation)
            stream(directory, nodes, options.via, wish, options.seconds or FOR_EVER, files, tally, lambda: _begun(nodes))
        else:
            with Path(options.path).open("wb") as file:
                _at_the_end(options, directory, nodes, wish, file, tally)
    except BrokenPipeError:
        pass  # whoever read along has seen enough
    except OSError as error:
        raise (Fault if tally.packets else UserError)(f"--write: {options.path}: {error.strerror}") from None
    finally:
        if tally.over:
            click.echo(f"{options.path}: {tally}", err=True)
        elif (path := Path(options.path)).is_file() and not path.stat().st_size:
            path.unlink()  # nothing was begun


def _begun(nodes: Sequence[str]) -> None:
    click.echo(f"capturing on {len(nodes)} nodes; Ctrl-C ends it" if len(nodes) != 1 else
               f"capturing on {nodes[0]}; Ctrl-C ends it", err=True)


def _at_the_end(options: Options, directory: Directory, nodes: Sequence[str], wish: Wish, file: BinaryIO, tally: Tally) -> None:
    faults = freezing.parse(options.freeze_on) if options.freeze_on else frozenset()

    def wait(taps: Sequence[Tap]) -> None:
        with suppress(KeyboardInterrupt):
            _begun(nodes)
            if not faults:
                time.sleep(options.seconds or SECONDS)
            elif words := freezing.wait(taps, faults, options.kubeconfig, options.seconds or FOR_EVER):
                click.echo(f"frozen: {words}", err=True)
                time.sleep(options.after)
            else:
                click.echo("no fault came in that time", err=True)

    kept = msgspec.structs.replace(wish, limits=options.limits, resets=freezing.RST in faults,
                                   metrics=tuple(options.metrics) if freezing.SYNC in faults else ())
    record(directory, nodes, options.via, kept, wait, file, tally)
