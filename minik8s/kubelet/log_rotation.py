"""Keeps container logs small: a file over the limit is moved aside and the runtime told to open a new one.

Read next: `minik8s/kubelet/logs.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Protocol

from nodecore.errors import Fault

from .cri import Runtime
from .records import Container

log = logging.getLogger(__name__)
PERIOD = 10.0


class Holder(Protocol):
    """What rotation needs of the kubelet."""

    runtime: Runtime

    def running(self) -> list[Container]:
        """The containers that run on this node."""
        ...


async def rotate_logs(kubelet: Holder, *, limit: int, files: int, period: float = PERIOD) -> None:
    """Look at every running container's log now and then, for ever: none above `limit` bytes, `files` of each container."""
    while True:
        await asyncio.sleep(period)
        for run in kubelet.running():
            try:
                await _rotate(kubelet.runtime, run, limit, files)
            except (OSError, Fault) as error:
                log.warning("log of %s not rotated: %s", run.name, error)


async def _rotate(runtime: Runtime, run: Container, limit: int, files: int) -> None:
    path = Path(run.log_path)
    aside = _move_aside(path, limit) if run.log_path else None
    if aside is None:
        return
    try:
        await runtime.reopen_log(run.id)
    except Fault:
        _move_back(aside, path)
        raise
    _drop_oldest(path, files)


def remove_logs(run: Container) -> None:
    """Delete the log of a run that is forgotten, rotated files with it."""
    path = Path(run.log_path)
    for file in path.parent.glob(f"{path.name}*") if run.log_path else ():
        file.unlink(missing_ok=True)


def _move_aside(path: Path, limit: int) -> Path | None:
    if not path.exists() or path.stat().st_size < limit:
        return None
    return path.rename(path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"))


def _move_back(aside: Path, path: Path) -> None:
    if not path.exists():
        aside.rename(path)


def _drop_oldest(path: Path, files: int) -> None:
    old = sorted(path.parent.glob(f"{path.name}.*"))
    for file in old[: max(0, len(old) - (files - 1))]:
        file.unlink()
