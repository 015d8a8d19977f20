"""A process that gives back what it no longer needs: soon after work, and not for nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from nodecore.daemon import heap


async def test_who_does_nothing_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "PERIOD", 0.01)
    waiting = asyncio.create_task(heap._work_done(0.2))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    await asyncio.wait_for(waiting, 2)
