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
