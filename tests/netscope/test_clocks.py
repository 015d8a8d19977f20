"""How far another clock is ahead, as near as asking tells."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netscope.clocks import ahead

DELAYS = st.integers(0, 10**9)


@given(st.integers(-(10**12), 10**12), st.lists(st.tuples(DELAYS, DELAYS), min_size=1))
def test_no_further_off_than_the_quickest_round_took(truly: int, rounds: list[tuple[int, int]]) -> None:
    told = ahead((10**15, 10**15 + there + truly, 10**15 + there + back) for there, back in rounds)
    assert abs(told - truly) <= min(map(sum, rounds)) + 1


def test_one_that_may_be_right_is() -> None:
    assert ahead([(100, 140, 200), (300, 0, 900)]) == 0
    assert ahead([(100, 260, 200), (300, 0, 900)]) == 110
