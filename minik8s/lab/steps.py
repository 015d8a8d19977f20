"""A table of steps on the terminal, each with its time, and the tail of the log that explains a failure.

Read next: `minik8s/lab/up.py`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

TAIL = 15


class Steps:
    """Names what is being done and for how long, as it happens."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.times: list[tuple[str, float]] = []
        self.live = sys.stderr.isatty()

    @property
    def total(self) -> float:
        """Seconds since the first step began."""
        return time.monotonic() - self.start

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step; a line when it ends, and on a terminal one when it begins."""
        begin = time.monotonic()
        if self.live:
            click.echo(f"        {name} ...\r", nl=False, err=True)
        yield
        seconds = time.monotonic() - begin
        self.times.append((name, seconds))
        click.echo(f"{seconds:6.2f} s  {name}" + "    " * self.live, err=True)

    def done(self, text: str) -> None:
        """The closing line."""
        click.echo(f"{self.total:6.2f} s  in all: {text}", err=True)


def tail(path: Path, lines: int = TAIL) -> str:
    """The last lines of a log, with its name above them."""
    try:
        text = path.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        text = []
    return "\n".join([f"--- the end of {path}", *(text or ["(empty)"]), "---"])
