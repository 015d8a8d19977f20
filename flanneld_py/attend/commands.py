"""Runs one command of the operator's: `sh -c`, values only in its environment and on its stdin.

Both its outputs are read together. One that takes too long is ended, with everything it started.
Must not know: what the command is for. Read next: `flanneld_py/attend/extension.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping
from contextlib import suppress

from nodecore.errors import Fault

log = logging.getLogger(__name__)

PATIENCE = 60.0


async def run_command(
    what: str, command: str, environment: Mapping[str, str], text: str = "", *, patience: float = PATIENCE
) -> str:
    """What it printed; a `Fault` says how it failed. `what` is the command's name in messages."""
    process = await _start(command, {**os.environ, **environment})
    try:
        async with asyncio.timeout(patience):
            printed, _ = await process.communicate(f"{text}\n".encode())
    except TimeoutError:
        raise Fault(f"{what} did not end within {patience:.0f} s: {command}") from None
    finally:
        await _end(process)
    output = printed.decode(errors="replace").strip()
    if process.returncode:
        raise Fault(f"{what} failed with exit code {process.returncode}: {command}: {output or 'no output'}")
    log.info("ran %s: %s", what, output or "no output")
    return output


async def _start(command: str, environment: Mapping[str, str]) -> Process:
    starting = asyncio.ensure_future(asyncio.create_subprocess_exec(
        "sh", "-c", command, env=environment, start_new_session=True, stdin=PIPE, stdout=PIPE, stderr=STDOUT
    ))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _end(await starting)
        raise


async def _end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
