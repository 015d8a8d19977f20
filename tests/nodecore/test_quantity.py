"""Amounts as Kubernetes writes them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodecore.errors import UserError
from nodecore.kube.quantity import canonical, parse_milli, parse_quantity, parse_whole


@pytest.mark.parametrize(("text", "amount"), [
    ("100m", Fraction(1, 10)), ("1.5Gi", 1610612736), ("2e3", 2000), ("1E", 10**18), ("1Ei", 2**60), (".5", Fraction(1, 2)),
    ("5.", 5), (3, 3), (0.25, Fraction(1, 4)), ("-1k", -1000), ("12E-1", Fraction(6, 5)), ("+7", 7), ("1n", Fraction(1, 10**9)),
])
def test_amounts(text: str, amount: Fraction) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize("text", ["", "1KI", "abc", "1 Gi", "1ki", ".", "1e", "--1", "1m5", "\u0661"])
def test_what_is_none_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"^requests\.cpu: "):
        parse_quantity(text, what="requests.cpu")


@given(st.integers(-10**9, 10**9))
def test_milli_and_whole_round_up(number: int) -> None:
    assert parse_milli(f"{number}m") == number
    assert parse_whole(f"{number}m") == -(-number // 1000)


@pytest.mark.parametrize(("text", "written"), [
    ("0.5", "500m"), ("1024Mi", "1Gi"), ("2000m", "2"), ("1", "1"), ("100000", "100k"), ("33554432", "33554432"), (".05", "50m"),
    ("1.5Gi", "1536Mi"), ("0.5Ki", "512"), ("0.1Ki", "102400m"), ("1e3", "1e3"), ("1e2", "100"), ("0Gi", "0"),
    ("1023Mi", "1023Mi"), ("-1.5", "-1500m"), ("+5", "5"), ("0.0000000001", "1n"), ("1E", "1E"),
])
def test_the_one_way_of_writing(text: str, written: str) -> None:
    assert canonical(text) == written
    assert canonical(written) == written
    assert abs(parse_quantity(written) - parse_quantity(text)) < Fraction(1, 10**9)
