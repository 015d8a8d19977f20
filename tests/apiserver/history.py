"""Whether what clients saw of some objects can have happened: a checker of histories. Pure.

    ops      what clients did: when they asked, when they had the answer, what it said (unknown: no answer came)
    truth    every change, in the order of etcd's revisions, each with the op that wrote it
    watches  what each watcher was told, one list of changes a watcher, however often it had to reconnect

As every change has a revision there is no search: each answer is compared with the truth.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Op:
    """`revision` is that of the write, or of the object read (0: not there); `expect` that of the object a write is meant for."""

    id: str
    kind: str  # create update delete get
    key: str
    start: float
    end: float
    outcome: str  # ok refused unknown
    revision: int = 0
    expect: int = 0
    seen: str = ""  # get: the op that wrote what was read


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one key; a deletion is written by nobody."""

    revision: int
    key: str
    by: str = ""

    @property
    def deletes(self) -> bool:
        return not self.by


@dataclass
class Watched:
    """What one watcher was told after `since`, up to `until`."""

    since: int
    until: int
    changes: list[Change] = field(default_factory=list)


def violations(ops: Sequence[Op], truth: Sequence[Change], watches: Iterable[Watched] = ()) -> list[str]:
    """Every way in which this cannot have happened; empty for a good history."""
    by_key: dict[str, list[Change]] = defaultdict(list)
    for change in truth:
        by_key[change.key].append(change)
    found = [*_written_once(ops, truth), *_in_order_of_time(ops)]
    for op in ops:
        if op.outcome == "ok" and op.kind != "get":
            found += _write(op, by_key[op.key])
    for key, changes in by_key.items():
        found += _reads([op for op in ops if op.key == key and op.outcome == "ok"], changes)
    for number, watched in enumerate(watches):
        wanted = [change for change in truth if watched.since < change.revision <= watched.until]
        if watched.changes != wanted:
            found.append(f"watcher {number}: {_difference(watched.changes, wanted)}")
    return found


def _written_once(ops: Sequence[Op], truth: Sequence[Change]) -> list[str]:
    times: dict[str, int] = defaultdict(int)
    for change in truth:
        if change.by:
            times[change.by] += 1
    found = [f"{op} was refused, but written" for op in ops if op.outcome == "refused" and times[op.id]]
    return found + [f"op {who} was written {count} times" for who, count in times.items() if count > 1]


def _in_order_of_time(ops: Sequence[Op]) -> list[str]:
    """A write that was answered before another was asked for has the smaller revision."""
    writes = [op for op in ops if op.outcome == "ok" and op.kind != "get"]
    ended = sorted(writes, key=lambda op: op.end)
    found, newest, at = [], 0, 0
    for op in sorted(writes, key=lambda op: op.start):
        while at < len(ended) and ended[at].end < op.start:
            newest = max(newest, ended[at].revision)
            at += 1
        if op.revision <= newest:
            found.append(f"{op} came after revision {newest} was answered")
    return found


def _write(op: Op, changes: Sequence[Change]) -> list[str]:
    """It is there, and nothing came between it and what it was meant for."""
    at = bisect_left(changes, op.revision, key=lambda change: change.revision)
    if at == len(changes) or changes[at].revision != op.revision or changes[at].by != ("" if op.kind == "delete" else op.id):
        return [f"{op} is lost: not in the truth"]
    before = changes[at - 1] if at else None
    if op.kind == "create":
        return [f"{op} was made over {before}"] if before and not before.deletes else []
    if before is None or before.deletes:
        return [f"{op} changed what was not there"]
    return [f"{op} overwrote {before}"] if op.expect and before.revision != op.expect else []


def _reads(ops: Sequence[Op], changes: Sequence[Change]) -> list[str]:
    """A read shows a state that held at some moment between its question and its answer."""
    found, revisions = [], [change.revision for change in changes]
    known = sorted(((op.end, op.revision) for op in ops if op.revision), key=lambda pair: pair[0])
    newest, at = 0, 0
    for op in sorted((op for op in ops if op.kind == "get"), key=lambda op: op.start):
        while at < len(known) and known[at][0] < op.start:
            newest = max(newest, known[at][1])
            at += 1
        if not op.revision:
            if not _absent_since(newest, changes, revisions):
                found.append(f"{op} missed what was there at {newest}")
            continue
        where = bisect_left(revisions, op.revision)
        if where == len(changes) or changes[where] != Change(op.revision, op.key, op.seen):
            found.append(f"{op} saw what never was")
        elif op.revision < newest:
            found.append(f"{op} saw the past: {newest} was known")
    return found


def _absent_since(newest: int, changes: Sequence[Change], revisions: Sequence[int]) -> bool:
    """Whether the key was away at a moment not before revision `newest`."""
    at = bisect_right(revisions, newest)
    return at == 0 or changes[at - 1].deletes or any(change.deletes for change in changes[at:])


def _difference(told: Sequence[Change], wanted: Sequence[Change]) -> str:
    at = next((i for i, (one, other) in enumerate(zip(told, wanted, strict=False)) if one != other), min(len(told), len(wanted)))
    return f"{len(told)} events for {len(wanted)} changes; event {at}: {told[at:at + 2]} instead of {wanted[at:at + 2]}"
