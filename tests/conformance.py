"""The conformance table: what was asked of a proxy, feature by feature, in which mode, family and protocol, and how it went.

Tests that belong in it have the property `cell`: (feature, column). `tests/conftest.py` prints it when they have run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

CELL = "cell"
MARKS = {"passed": "ok", "failed": "FAIL", "error": "FAIL", "skipped": "-"}
WORST = ("FAIL", "-", "ok")
PROTOCOLS, ALL = ("tcp", "udp", "sctp"), "all"


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
    """Lines: a row for each feature, a column for each mode and family, in it what each protocol came to."""
    merged: dict[tuple[str, str], dict[str, str]] = {}
    for (feature, column), mark in found.items():
        place, _, protocol = column.rpartition(" ")
        merged.setdefault((feature, place), {})[protocol] = mark
    columns = sorted({column for _, column in merged})
    features = list(dict.fromkeys(feature for feature, _ in merged))
    width, heads = max(len(feature) for feature in features), {column: column.replace("-", " ").split() for column in columns}
    wide = {column: max(5, *(len(word) for word in head)) for column, head in heads.items()}
    for line in range(max(len(head) for head in heads.values())):
        yield " " * width + "".join(f" {[*heads[column], '', ''][line]:>{wide[column]}}" for column in columns)
    for feature in features:
        marks = (f" {_said(merged.get((feature, column), {})):>{wide[column]}}" for column in columns)
        yield f"{feature:<{width}}" + "".join(marks)
    yield "T, U, S: TCP, UDP, SCTP went where they should; ! did not; - cannot be asked here; . is not asked"


def _said(marks: dict[str, str]) -> str:
    """One word where it is not asked by protocol, else a letter for each protocol."""
    if ALL in marks or not marks:
        return marks.get(ALL, ".")
    letters = {"ok": "", "FAIL": "!", "-": "-", "": "."}
    return "".join(letters[marks.get(protocol, "")] or protocol[0].upper() for protocol in PROTOCOLS)
