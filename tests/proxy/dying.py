"""The proxy, which kills itself (SIGKILL) at one step of its first sync: `dying.py STEP before|during|after FLAGS...`.

Steps are the writes of `Rules.apply`, from zero; `during` is as soon as a child of that write runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from proxy import __main__ as program
from proxy.target import Rules

step, when = int(sys.argv[1]), sys.argv[2]
sys.argv[1:] = sys.argv[3:]
told = Path(os.environ["DYING_LOG"])
count = 0
write, start = Rules._write, asyncio.create_subprocess_exec


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def dying(self: Rules, op: Any) -> None:
    global count
    now, count = count, count + 1
    told.open("a").write(f"{now} {type(op).__name__}\n")
    if now == step and when == "before":
        die()
    if now == step and when == "during":
        asyncio.create_subprocess_exec = started  # type: ignore[assignment]
    await write(self, op)
    asyncio.create_subprocess_exec = start
    if now == step and when == "after":
        die()


async def started(*argv: Any, **options: Any) -> Any:
    child = await start(*argv, **options)
    die()
    return child


Rules._write = dying  # type: ignore[method-assign]
program.main()
