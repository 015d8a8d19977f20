"""The one loop: syncs before it writes, batches, backs off, heals, and never ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodecore.errors import Bug, Busy
from nodecore.loop.backoff import Backoff
from nodecore.loop.reconcile import Outcome, Reconciler
from nodecore.loop.supervise import run_tasks


@dataclass(frozen=True)
class Put:
    name: str

    def describe(self) -> str:
        return f"put {self.name}"


@dataclass
class World:
    """A target whose kernel is a set."""

    wanted: set[str] = field(default_factory=set)
    actual: set[str] = field(default_factory=set)
    ready: bool = True
    failing: int = 0
    forgotten: int = 0
    passes: int = 0

    def synced(self) -> bool:
        return self.ready

    def desired(self) -> frozenset[str]:
        self.passes += 1
        return frozenset(self.wanted)

    async def observe(self, wanted: frozenset[str]) -> frozenset[str]:
        return frozenset(self.actual)

    def plan(self, actual: frozenset[str], wanted: frozenset[str]) -> Sequence[Put]:
        return [Put(name) for name in sorted(wanted - actual)]

    async def apply(self, ops: Sequence[Put]) -> None:
        if self.failing:
            self.failing -= 1
            raise ExceptionGroup("apply", [Busy("device or resource busy")])
        self.actual |= {op.name for op in ops}

    def forget(self) -> None:
        self.forgotten += 1


class Hands:
    """A clock whose sleeps cost nothing and are written down."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.time += seconds
            self.slept.append(seconds)
        await asyncio.sleep(0)


async def until(condition: object, limit: float = 30.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0)


async def test_nothing_is_written_before_every_input_is_synced() -> None:
    world = World(wanted={"a"}, ready=False)
    reconciler = Reconciler("t", world, clock=Hands())
    task = asyncio.create_task(reconciler.run())
    for _ in range(20):
        reconciler.mark()
        await asyncio.sleep(0)
    assert world.passes == 0
    world.ready = True
    reconciler.mark()
    await until(lambda: world.actual == {"a"})
    assert reconciler.healthy
    task.cancel()


async def test_a_burst_is_one_pass() -> None:
    world, hands = World(), Hands()
    reconciler = Reconciler("t", world, min_interval=1.0, clock=hands)
    task = asyncio.create_task(reconciler.run())
    await until(lambda: world.passes == 1)
    for name in "abcdefgh":
        world.wanted.add(name)
        reconciler.mark()
    await until(lambda: world.actual == set("abcdefgh"))
    assert world.passes == 2
    assert hands.slept == [1.0]
    task.cancel()


async def test_a_foreign_change_is_healed_when_marked() -> None:
    world = World(wanted={"route"})
    reconciler = Reconciler("t", world, clock=Hands())
    task = asyncio.create_task(reconciler.run())
    await until(lambda: world.actual == {"route"})
    world.actual.clear()
    reconciler.mark()
    await until(lambda: world.actual == {"route"})
    task.cancel()


async def test_failures_back_off_forget_and_turn_unhealthy_until_it_works() -> None:
    world, hands = World(wanted={"a"}, failing=4), Hands()
    outcomes: list[Outcome] = []
    reconciler = Reconciler("t", world, clock=hands, unhealthy_after=3, on_outcome=outcomes.append)
    task = asyncio.create_task(reconciler.run())
    await until(lambda: len(outcomes) == 3)
    assert not reconciler.healthy
    await until(lambda: world.actual == {"a"})
    assert reconciler.healthy
    assert world.forgotten == 4
    assert len(hands.slept) == 4
    assert hands.slept[-1] > hands.slept[0]
    assert [bool(outcome.error) for outcome in outcomes] == [True] * 4 + [False]
    task.cancel()


async def test_verify_warns_of_what_did_not_take(caplog: pytest.LogCaptureFixture) -> None:
    class Deaf(World):
        async def apply(self, ops: Sequence[Put]) -> None:
            pass

    await Reconciler("t", Deaf(wanted={"a"}), verify=True, clock=Hands()).once()
    assert "still differs after apply: put a" in caplog.text


@given(st.floats(0.01, 5), st.floats(5, 60), st.integers(1, 80), st.integers())
def test_backoff_grows_to_its_cap_and_never_past_it(first: float, cap: float, tries: int, seed: int) -> None:
    backoff = Backoff(first=first, cap=cap, rng=Random(seed))
    delays = [backoff.next() for _ in range(tries)]
    for number, delay in enumerate(delays):
        ceiling = min(cap, first * 2.0 ** number)
        assert ceiling / 2 <= delay <= ceiling
    backoff.reset()
    assert backoff.next() <= first


async def test_an_eternal_task_that_ends_is_an_error() -> None:
    async def ends() -> None:
        return

    with pytest.raises(ExceptionGroup) as caught:
        await run_tasks({"ends": ends(), "lives": asyncio.Event().wait()}, signals=False)  # type: ignore[dict-item]
    assert isinstance(caught.value.exceptions[0], Bug)
    assert "task ends ended" in str(caught.value.exceptions[0])


async def test_a_pass_that_hangs_is_not_alive_and_one_that_fails_is() -> None:
    hanging, failing = asyncio.Event(), asyncio.Event()

    class Hanging(World):
        async def observe(self, wanted: frozenset[str]) -> frozenset[str]:
            hanging.set()
            await asyncio.Event().wait()
            raise AssertionError

    class Failing(World):
        async def observe(self, wanted: frozenset[str]) -> frozenset[str]:
            failing.set()
            raise Busy("always")

    clocks = Hands(), Hands()
    hung = Reconciler("hung", Hanging(), resync=10, stuck_after=60, clock=clocks[0])
    fails = Reconciler("fails", Failing(), resync=10, stuck_after=60, clock=clocks[1])
    assert hung.alive
    tasks = [asyncio.create_task(hung.run()), asyncio.create_task(fails.run())]
    await asyncio.gather(hanging.wait(), failing.wait())
    clocks[0].time += 69
    assert hung.alive
    clocks[0].time += 2
    assert not hung.alive
    await until(lambda: clocks[1].time > 100)
    assert fails.alive
    assert not fails.healthy
    for task in tasks:
        task.cancel()


async def test_whoever_mended_something_need_not_wait_for_the_back_off() -> None:
    world = World(wanted={"a"}, failing=1)
    failed = asyncio.Event()
    reconciler = Reconciler(
        "t", world, backoff=Backoff(first=600.0, cap=600.0), on_outcome=lambda outcome: failed.set() if outcome.error else None
    )
    task = asyncio.create_task(reconciler.run())
    await failed.wait()
    reconciler.mark()
    await asyncio.sleep(0.02)
    assert world.actual == set(), "mere news does not shorten it"
    reconciler.hurry()
    async with asyncio.timeout(30):
        while world.actual != {"a"}:
            await asyncio.sleep(0.005)
    task.cancel()


async def test_damage_waits_for_no_interval_but_as_long_as_the_last_pass_worked() -> None:
    class Slow(World):
        async def apply(self, ops: Sequence[Put]) -> None:
            hands.time += 2.0
            await super().apply(ops)

    world, hands = Slow(wanted={"a"}), Hands()
    reconciler = Reconciler("t", world, min_interval=600.0, clock=hands)
    task = asyncio.create_task(reconciler.run())
    await until(lambda: world.actual == {"a"})
    for damaged in range(1, 4):
        world.actual.clear()
        reconciler.hurry()
        await until(lambda: world.actual == {"a"})
        assert hands.slept == [2.0] * damaged, "somebody who always damages it anew gets half of the time"
    world.wanted.add("b")
    reconciler.mark()
    await until(lambda: "b" in world.actual)
    assert hands.slept == [2.0] * 4 + [598.0]
    task.cancel()
