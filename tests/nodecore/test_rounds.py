"""Turns on one event loop: so many a round, in order, and a short piece of work is never kept waiting by a crowd."""

from __future__ import annotations

import asyncio

from nodecore.loop.rounds import Rounds


async def test_so_many_a_round_in_order() -> None:
    rounds, log = Rounds(2), list[int]()

    async def one(number: int) -> None:
        await rounds.turn()
        log.append(number)

    tasks = [asyncio.create_task(one(number)) for number in range(9)]
    seen = []
    while len(log) < 9:
        await asyncio.sleep(0)
        seen.append(len(log))
    assert log == sorted(log)
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) == 2
    await asyncio.gather(*tasks)


async def test_who_leaves_holds_nobody_up() -> None:
    rounds = Rounds(1)
    await rounds.turn()
    tasks = [asyncio.create_task(rounds.turn()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks[:4]:
        task.cancel()
    await asyncio.wait_for(tasks[4], 30)
    await asyncio.wait_for(rounds.turn(), 30)


async def test_alone_nobody_waits() -> None:
    rounds = Rounds(1)
    for _ in range(3):
        turn = rounds.turn()
        try:
            turn.send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("there was nobody to wait for")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
