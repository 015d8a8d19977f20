"""The conformance table: what was asked of a proxy, feature by feature, in which mode, family and protocol, and how it went.

Tests that belong in it have the property `cell`: (feature, column). `tests/conftest.py` prints it when they have run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

CELL = "cell"
MARKS = {"passed": "ok", "failed": "FAIL", "error": "FAIL", "skipped": "-"}
WORST = ("FAIL", "-", "ok")


def cells(stats: dict[str, list[Any]]) -> dict[tuple[str, str], str]:
    """Feature and column -> the worst that happened there."""
    found: dict[tuple[str, str], str] = {}
    for outcome, mark in MARKS.items():
        for report in stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", ()):
                if name == CELL:
                    place = (value[0], value[1])
                    found[place] = min(mark, found.get(place, "ok"), key=WORST.index)
    return found


def table(found: dict[tuple[str, str], str]) -> Iterable[str]:
    """Lines: a row for each feature, a column for each mode, family and protocol, `.` where nothing was asked."""
    columns = sorted({column for _, column in found})
    features = list(dict.fromkeys(feature for feature, _ in found))
    width = max(len(feature) for feature in features)
    for line in range(max(len(column.split()) for column in columns)):
        words = [[*column.split(), "", ""][line] for column in columns]
        yield " " * width + "".join(f" {word:>{_wide(column)}}" for word, column in zip(words, columns, strict=True))
    for feature in features:
        marks = (f" {found.get((feature, column), '.'):>{_wide(column)}}" for column in columns)
        yield f"{feature:<{width}}" + "".join(marks)


def _wide(column: str) -> int:
    return max(4, *(len(word) for word in column.split()))
