"""Records are what the standard library's frozen dataclasses with slots are."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field, fields, replace
from typing import Any, ClassVar

import pytest

from nodecore import record


def build(decorator: Callable[..., Any]) -> tuple[Any, Any]:
    @decorator(frozen=True, slots=True)
    class Part:
        name: str
        size: int = 3
        tags: list[str] = field(default_factory=list, compare=False)
        secret: bytes = field(default=b"", repr=False)
        kind: ClassVar[str] = "part"

        @property
        def twice(self) -> int:
            return 2 * self.size

    @decorator(frozen=True, slots=True)
    class Whole(Part):
        more: int = 0

        def __repr__(self) -> str:
            return "whole"

    return Part, Whole


def look(part: Any, whole: Any) -> list[object]:
    one, same, other = part("a"), part("a", 3, ["x"]), part("a", size=4)
    return [
        repr(one), repr(whole("a", more=1)), one == same, one == other, one == whole("a"), one == 1,
        hash(one), hash(same), hash(other), one.tags is same.tags, [one.name for one in fields(part)], part.__match_args__,
        replace(one, size=9).size, part.__slots__, whole.__slots__, hasattr(one, "__dict__"), one.twice, whole("b", 5).twice,
        part.__name__, part.__doc__ is None, copy.copy(same).tags, copy.deepcopy(same) == same,
    ]


def test_it_looks_like_the_standard_one() -> None:
    ours, standard = look(*build(record.dataclass)), look(*build(dataclasses.dataclass))
    assert [a == b for a, b in zip(ours, standard, strict=True)].count(False) <= 1  # only the standard one makes up a docstring
    assert ours[:19] == standard[:19]


def test_it_stays_as_it_was_made() -> None:
    part, whole = build(record.dataclass)
    for made in (part("a"), whole("a")):
        with pytest.raises(FrozenInstanceError):
            made.name = "b"
        with pytest.raises(FrozenInstanceError):
            del made.name
        with pytest.raises((FrozenInstanceError, TypeError)):  # the standard one trips over its own feet here, in 3.11
            made.new = 1
    with pytest.raises(TypeError):
        part()
    with pytest.raises(TypeError):
        part("a", 1, [], b"", 5)


@record.dataclass(frozen=True, slots=True)
class Checked:
    """One at the top of a module, so that it can be pickled."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("negative")


def test_it_checks_itself_and_can_be_sent() -> None:
    assert pickle.loads(pickle.dumps(Checked(1))) == Checked(1)
    assert hash(Checked(1)) == hash((1,))
    with pytest.raises(ValueError, match="negative"):
        replace(Checked(1), number=-1)


def test_a_standard_one_can_be_made_of_it_and_other_kinds_are_the_standard_ones() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Longer(Checked):
        length: int = 0

    assert Longer(1, 2).length == 2

    @record.dataclass(frozen=True, slots=True, order=True)
    class Ordered:
        number: int

    assert Ordered(1) < Ordered(2)
