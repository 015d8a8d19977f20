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
from .worker import PodWorker

log = logging.getLogger(__name__)
LIMIT = 10 * 1024 * 1024
FILES = 5
PERIOD = 10.0


class Holder(Protocol):
    """What rotation needs of the kubelet."""

    runtime: Runtime
    workers: dict[str, PodWorker]


async def rotate_logs(kubelet: Holder, *, limit: int = LIMIT, period: float = PERIOD) -> None:
    """Look at every running container's log now and then, for ever."""
    while True:
        await asyncio.sleep(period)
        runs = [run for worker in list(kubelet.workers.values()) for run in worker.actual.running()]
        for run in runs:
            try:
                await _rotate(kubelet.runtime, run, limit)
            except (OSError, Fault) as error:
                log.warning("log of %s not rotated: %s", run.name, error)


async def _rotate(runtime: Runtime, run: Container, limit: int) -> None:
    path = Path(run.log_path)
    aside = _move_aside(path, limit) if run.log_path else None
    if aside is None:
        return
    try:
        await runtime.reopen_log(run.id)
    except Fault:
        _move_back(aside, path)
        raise
    _drop_oldest(path)


def _move_aside(path: Path, limit: int) -> Path | None:
    if not path.exists() or path.stat().st_size < limit:
        return None
    return path.rename(path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"))


def _move_back(aside: Path, path: Path) -> None:
    if not path.exists():
        aside.rename(path)


def _drop_oldest(path: Path) -> None:
    old = sorted(path.parent.glob(f"{path.name}.*"))
    for file in old[: max(0, len(old) - (FILES - 1))]:
        file.unlink()
