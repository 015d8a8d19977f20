"""Regular expressions that users bring along, matched in time that grows with the text alone, as the original's do.

    Expression("^(a+)+$").found("aaaa!")

All ways through an expression are walked at once, a letter at a time, and sets of places met before are remembered: no text makes
it try again. Python reads the pattern; what needs more than one look at a letter (back references, looking ahead or behind) is
refused. `\\d`, `\\w`, `\\s` are of ASCII and `$` is the very end, as in Go. Pure. Read next: `structural.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

MOST, KEPT = 5000, 4000
Test = Callable[[str], bool]
Places = frozenset[int]
CATEGORIES = {"DIGIT": re.compile("[0-9]"), "WORD": re.compile("[0-9A-Za-z_]"), "SPACE": re.compile("[\t\n\f\r\v ]")}
START, LINE, WORD, OTHER = "start", "line", "word", "other"  # what is beside a place; START is its end as well
AT: dict[str, Callable[[str, str], bool]] = {
    "AT_BEGINNING": lambda before, after: before == START, "AT_BEGINNING_STRING": lambda before, after: before == START,
    "AT_END": lambda before, after: after == START, "AT_END_STRING": lambda before, after: after == START,
    "AT_BOUNDARY": lambda before, after: (before == WORD) != (after == WORD),
    "AT_NON_BOUNDARY": lambda before, after: (before == WORD) == (after == WORD),
    "LINE_BEGINNING": lambda before, after: before in (START, LINE), "LINE_END": lambda before, after: after in (START, LINE),
}


class Expression:
    """One expression; ValueError for what is none, or cannot be matched so."""

    def __init__(self, pattern: str) -> None:
        self._letters: dict[int, tuple[Test, int]] = {}  # place -> what leads on, and to where
        self._ways: dict[int, tuple[int, ...]] = {}
        self._marks: dict[int, tuple[str, int]] = {}
        self._count = 1  # place 0 is the end
        try:
            tree = import_module("re._parser").parse(pattern)
            self._start = self._sequence(tree, 0, tree.state.flags)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from None
        self._closed: dict[tuple[Places, str, str], Places] = {}
        self._next: dict[tuple[Places, str], Places] = {}

    def found(self, text: str) -> bool:
        """Whether some part of the text matches."""
        here, before = frozenset((self._start,)), START
        for letter in (*text, ""):
            after = _beside(letter) if self._marks else OTHER
            open_ = self._reached(here, before, after)
            if 0 in open_:
                return True
            if letter:
                here, before = self._after(open_, letter), after
        return False

    def _reached(self, here: Places, before: str, after: str) -> Places:
        """All places that can be had from some without a letter."""
        key = (here, before, after)
        found = self._closed.get(key)
        if found is None:
            seen, todo = set(here), list(here)
            while todo:
                place = todo.pop()
                on = self._ways.get(place, ())
                if place in self._marks and AT[self._marks[place][0]](before, after):
                    on = (self._marks[place][1],)
                todo += (fresh := set(on) - seen)
                seen |= fresh
            found = frozenset(place for place in seen if place in self._letters or not place)
            _keep(self._closed, key, found)
        return found

    def _after(self, open_: Places, letter: str) -> Places:
        key = (open_, letter)
        found = self._next.get(key)
        if found is None:
            led = (self._letters[place] for place in open_)
            found = frozenset((self._start, *(on for test, on in led if test(letter))))
            _keep(self._next, key, found)
        return found

    def _place(self) -> int:
        self._count += 1
        if self._count > MOST:
            raise ValueError(f"it has more than {MOST} places")
        return self._count - 1

    def _split(self, *ways: int) -> int:
        place = self._place()
        self._ways[place] = ways
        return place

    def _sequence(self, items: Any, on: int, flags: int) -> int:
        for op, value in reversed(list(items)):
            on = self._one(str(op), value, on, flags)
        return on

    def _one(self, op: str, value: Any, on: int, flags: int) -> int:
        match op:
            case "SUBPATTERN":
                return self._sequence(value[3], on, (flags | value[1]) & ~value[2])
            case "BRANCH":
                return self._split(*(self._sequence(each, on, flags) for each in value[1]))
            case "MAX_REPEAT" | "MIN_REPEAT":
                return self._repeat(value, on, flags)
            case "AT":
                line = flags & re.MULTILINE and str(value) in ("AT_BEGINNING", "AT_END")
                place = self._place()
                self._marks[place] = (str(value).replace("AT_", "LINE_") if line else str(value), on)
                return place
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                place = self._place()
                self._letters[place] = (_test(op, value, flags), on)
                return place
        raise ValueError(f"{op.lower().replace('_', ' ')} is not supported")

    def _repeat(self, value: Any, on: int, flags: int) -> int:
        least, most, body = value
        end = on
        if str(most) == "MAXREPEAT":
            on = self._place()
            self._ways[on] = (self._sequence(body, on, flags), end)
        else:
            for _ in range(int(most) - least):
                on = self._split(self._sequence(body, on, flags), end)
        for _ in range(least):
            on = self._sequence(body, on, flags)
        return on


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    if len(kept) >= KEPT:
        kept.clear()
    kept[key] = value


@lru_cache(1024)
def _beside(letter: str) -> str:
    if not letter:
        return START
    return LINE if letter == "\n" else WORD if CATEGORIES["WORD"].match(letter) else OTHER


def _test(op: str, value: Any, flags: int) -> Test:
    if op == "ANY":
        return lambda letter: bool(flags & re.DOTALL) or letter != "\n"
    if op == "IN":
        negated = str(value[0][0]) == "NEGATE"
        parts = [_part(str(kind), what) for kind, what in value[negated:]]
    else:
        negated, parts = op == "NOT_LITERAL", [_part("LITERAL", value)]
    return partial(_is_one_of, parts, negated, bool(flags & re.IGNORECASE))


def _is_one_of(parts: list[Test], negated: bool, anyhow: bool, letter: str) -> bool:  # noqa: FBT001
    forms = {letter, letter.lower(), letter.upper()} if anyhow else (letter,)
    return any(part(form) for part in parts for form in forms if len(form) == 1) is not negated


def _part(kind: str, what: Any) -> Test:
    if kind == "LITERAL":
        return lambda letter: ord(letter) == what
    if kind == "RANGE":
        return lambda letter: what[0] <= ord(letter) <= what[1]
    name = str(what).removeprefix("CATEGORY_")
    known = CATEGORIES[name.removeprefix("NOT_")]
    return lambda letter: bool(known.match(letter)) is not name.startswith("NOT_")
