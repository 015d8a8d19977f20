"""How long syncs rest."""

from __future__ import annotations

import pytest

from proxy.pace import CREDIT, REST_PER_WORK, Pace


def test_changes_now_and_then_are_never_held_up() -> None:
    pace = Pace(1.0)
    assert [pace.rest(10 + turn * 0.3, 0.02) for turn in range(100)] == [0.0] * 100


def test_one_slow_sync_holds_up_nothing() -> None:
    pace = Pace(1.0)
    pace.rest(10.0, 0.02)
    assert pace.rest(11.0, CREDIT) == 0.0


def test_many_changes_take_their_share_and_no_more() -> None:
    pace, now, worked = Pace(1.0), 10.0, 0.0
    while now < 40:
        now += 0.02
        worked += 0.02
        now += pace.rest(now, 0.02)
    assert worked / 30 == pytest.approx(1 / (1 + REST_PER_WORK), rel=0.1)


def test_a_huge_sync_is_not_paid_for_in_full() -> None:
    assert Pace(1.0).rest(10.0, 60.0) == pytest.approx(1.0)
    assert Pace(0.0).rest(10.0, 60.0) == 0.0


@pytest.mark.parametrize("stall", [0.0, 0.3, 1.2])
@pytest.mark.parametrize("cost", [0.02, 0.1, 0.4])
def test_no_backlog_whatever_a_sync_costs(cost: float, stall: float) -> None:
    """A change waits for the sync that runs, then at most `longest`, then for its own: also when the machine stalls at times."""
    longest, pace, now, waited_since = 1.0, Pace(1.0), 0.0, 0.0
    worst = slowest = 0.0
    for turn in range(2000):
        taken, worked = now, cost + (stall if turn % 50 == 0 else 0.0)
        now += worked
        slowest = max(slowest, worked)
        worst = max(worst, now - waited_since)  # of the change that came just after the last one was taken
        waited_since = taken
        now += pace.rest(now, worked)
    assert worst < longest + 2 * slowest + 0.001
