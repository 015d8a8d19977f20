"""The checker of histories: it accepts what can have happened and finds each thing that cannot."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.apiserver.history import Change, Op, Watched, violations

KEYS = ("a", "b")


def good(rng: random.Random, count: int = 60) -> tuple[list[Op], list[Change], list[Watched]]:
    """A history as it happens: every op takes effect at one moment between its start and its end."""
    now: dict[str, Change] = {}
    truth: list[Change] = []
    ops: list[Op] = []
    revision = 10
    for number in range(count):
        moment, key = float(number), rng.choice(KEYS)
        start, end = moment - rng.random() * 5, moment + rng.random() * 5
        kind, there = rng.choice(["create", "update", "update", "delete", "get", "get"]), now.get(key)
        expect = there.revision if there and kind in ("update", "delete") else 0
        op = Op(f"op{number}", kind, key, start, end, "ok", expect=expect)
        if kind == "get":
            ops.append(replace(op, revision=there.revision if there else 0, seen=there.by if there else ""))
            continue
        if rng.random() < 0.1:
            op = replace(op, expect=op.expect + 1)
        if (there is None) != (kind == "create") or (there and op.expect != there.revision):
            ops.append(replace(op, outcome="refused"))
            continue
        revision += rng.randint(1, 3)
        change = Change(revision, key, "" if kind == "delete" else op.id)
        truth.append(change)
        now.pop(key, None)
        if kind != "delete":
            now[key] = change
        unknown = rng.random() < 0.1
        ops.append(replace(op, outcome="unknown") if unknown else replace(op, revision=revision))
    since = rng.randint(0, revision)
    return ops, truth, [Watched(since, revision, [change for change in truth if change.revision > since])]


HISTORIES = st.builds(lambda seed: good(random.Random(seed)), st.integers(0, 10**6))


@given(HISTORIES)
def test_what_can_have_happened_is_accepted(history: tuple[list[Op], list[Change], list[Watched]]) -> None:
    assert violations(*history) == []


@given(HISTORIES, st.data())
def test_a_write_that_is_not_there_is_found(history: tuple[list[Op], list[Change], list[Watched]], data: st.DataObject) -> None:
    ops, truth, _ = history
    lost = data.draw(st.sampled_from(truth))
    assume(any(op.revision == lost.revision and op.kind != "get" for op in ops))
    assert violations(ops, [change for change in truth if change is not lost])


@given(HISTORIES, st.data())
def test_an_update_of_an_older_state_is_found(history: tuple[list[Op], list[Change], list[Watched]], data: st.DataObject) -> None:
    """Two updates meant for one revision, both answered with success: the first is lost."""
    ops, truth, _ = history
    updates = [op for op in ops if op.kind == "update" and op.outcome == "ok"]
    assume(updates)
    op = data.draw(st.sampled_from(updates))
    assert violations([replace(each, expect=each.expect - 1) if each is op else each for each in ops], truth)


@given(HISTORIES, st.data())
def test_a_read_of_the_past_is_found(history: tuple[list[Op], list[Change], list[Watched]], data: st.DataObject) -> None:
    ops, truth, _ = history
    old = data.draw(st.sampled_from(truth))
    later = [change for change in truth if change.key == old.key and change.revision > old.revision]
    assume(later)
    assume(any(op.revision == later[0].revision and op.outcome == "ok" for op in ops))
    read = Op("late", "get", old.key, 1000, 1001, "ok", revision=old.revision, seen=old.by)
    assert violations([*ops, read], truth)


@given(HISTORIES, st.data())
def test_an_object_that_rises_from_the_dead_is_found(history: tuple[list[Op], list[Change], list[Watched]],
                                                     data: st.DataObject) -> None:
    ops, truth, _ = history
    gone = [op for op in ops if op.kind == "delete" and op.outcome == "ok"]
    assume(gone)
    op = data.draw(st.sampled_from(gone))
    read = Op("late", "get", op.key, 1000, 1001, "ok", revision=op.expect, seen="x")
    assert violations([*ops, read], truth)


@given(HISTORIES)
def test_an_object_that_is_missed_is_found(history: tuple[list[Op], list[Change], list[Watched]]) -> None:
    ops, truth, _ = history
    last = {change.key: change for change in truth}
    there = [change for change in last.values() if not change.deletes and any(op.revision == change.revision for op in ops)]
    assume(there)
    assert violations([*ops, Op("late", "get", there[0].key, 1000, 1001, "ok")], truth)


@given(HISTORIES, st.data())
def test_writes_against_the_order_of_time_are_found(history: tuple[list[Op], list[Change], list[Watched]],
                                                    data: st.DataObject) -> None:
    ops, truth, _ = history
    writes = [op for op in ops if op.kind != "get" and op.outcome == "ok"]
    assume(len(writes) > 1)
    first = writes[0]
    assert violations([replace(op, start=2000, end=2001) if op is first else op for op in ops], truth)


@given(HISTORIES, st.sampled_from(["lose", "double", "swap"]), st.data())
def test_a_watch_that_lies_is_found(history: tuple[list[Op], list[Change], list[Watched]], how: str, data: st.DataObject) -> None:
    ops, truth, (watched,) = history
    assume(len(watched.changes) > 1)
    at = data.draw(st.integers(0, len(watched.changes) - 2))
    told = list(watched.changes)
    match how:
        case "lose":
            del told[at]
        case "double":
            told.insert(at, told[at])
        case _:
            told[at], told[at + 1] = told[at + 1], told[at]
    assert violations(ops, truth, [Watched(watched.since, watched.until, told)])


@given(HISTORIES)
def test_what_was_refused_must_not_be_written(history: tuple[list[Op], list[Change], list[Watched]]) -> None:
    ops, truth, _ = history
    written = [op for op in ops if op.kind == "update" and op.outcome == "ok"]
    assume(written)
    assert violations([replace(op, outcome="refused") if op is written[0] else op for op in ops], truth)
