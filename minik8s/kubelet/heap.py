"""Gives memory back: what starting up and every burst of pods leave free in the heap is returned to the kernel.

Does nothing where the C library has no malloc_trim. Read next: `minik8s/kubelet/agent.py`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc

FIRST, PERIOD = 5.0, 60.0


async def keep_small() -> None:
    """Trim soon after the start and once a minute, for ever."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    await asyncio.sleep(FIRST)
    while True:
        gc.collect()
        if trim:
            trim(0)
        await asyncio.sleep(PERIOD)
