"""`netscope trace --live`: nothing is sent; the way of each flow from the source to the target is told as it comes.

A flow is told once, when its first packets have had a moment to get where they go; `--dropped`: only what got no answer.
Read next: `netscope/trace.py`; `netscope/story.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from netscope.directory import Directory
from netscope.flow import PORTED
from netscope.headers import Headers
from netscope.nodes import Nodes
from netscope.records import Finish, Look, Outcome, Report, Start, Ways, WaysTo
from netscope.story import Trace, tell
from netscope.trace import SECONDS_TO_ANSWER, SECONDS_TO_START, Plan, Request, asked_for, plan_of, reports_of, with_reasons

PAUSE = 0.3
MOMENT = 1.0  # that an answer has


@dataclass
class Heap:
    """What was seen, look by look; when each flow was met first, by its mark; and the flows that have been told."""

    looks: list[tuple[float, dict[str, Report]]] = field(default_factory=list)
    since: dict[int, float] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)

    def add(self, plan: Plan, reports: dict[str, Report], now: float, *, new: bool) -> None:
        """What the nodes have seen since the last time; `new`: flows not met before count."""
        self.looks.append((now, reports))
        for report in reports.values():
            for headers in (*(each.headers for each in report.seen), *(hit.headers for hit in report.hits)):
                if headers and new and (mark := mark_of(plan, headers)):
                    self.since.setdefault(mark, now)

    @property
    def waiting(self) -> set[int]:
        """The marks of flows that are not told yet."""
        return self.since.keys() - self.told

    def ripe(self, now: float) -> list[int]:
        """The marks of flows that can be told now."""
        return [mark for mark in self.waiting if now - self.since[mark] >= MOMENT]

    def report(self, node: str, ways: Ways) -> Report:
        """All that one node saw, in one piece."""
        mine = [reports[node] for _, reports in self.looks if node in reports]
        seen = tuple(each for report in mine for each in report.seen)
        return Report(seen, tuple(hit for report in mine for hit in report.hits), ways.ways,
                      sum(report.lost for report in mine), mine[-1].remarks if mine else (), ways.switches, ways.tracked)

    def forget(self) -> None:
        """Let go of what was seen before the first flow that waits to be told, but for the look before."""
        begin = min((self.since[mark] for mark in self.waiting), default=self.looks[-1][0])
        self.looks = [each for each in self.looks if each[0] >= begin - 2 * PAUSE]


def mark_of(plan: Plan, headers: Headers) -> int:
    """The source's port (an echo's identifier), in a packet from the source to what was asked for; 0 in all others."""
    asked = plan.flow.ends[0]
    there = headers.source == plan.source and headers.target == asked.address and headers.protocol == plan.flow.wire
    return headers.source_port if there and (plan.flow.protocol not in PORTED or headers.target_port == asked.port) else 0


def follow(request: Request, directory: Directory, via: str, *, dropped: bool) -> Iterator[Trace]:
    """Each flow's story, until the time is over."""
    plan, heap = plan_of(request, directory, 0), Heap()
    with Nodes(plan.nodes, via) as nodes:
        nodes.ask_all(Start(plan.flow, plan.source), SECONDS_TO_START)
        clocks = nodes.clocks(SECONDS_TO_ANSWER)
        deadline = time.monotonic() + request.seconds
        try:
            while (now := time.monotonic()) < deadline or heap.waiting:
                time.sleep(PAUSE)
                heap.add(plan, reports_of(nodes.ask_all(Look(), SECONDS_TO_ANSWER), clocks), time.monotonic(), new=now < deadline)
                if ripe := heap.ripe(time.monotonic()):
                    yield from _stories(plan, heap, ripe, nodes, directory, dropped=dropped)
        finally:
            nodes.ask_all(Finish(), SECONDS_TO_ANSWER)


def _stories(plan: Plan, heap: Heap, marks: list[int], nodes: Nodes, directory: Directory, *, dropped: bool) -> Iterator[Trace]:
    known = {node: heap.report(node, Ways((), {})) for node in plan.nodes}
    answers = nodes.ask_all(WaysTo(asked_for(plan, directory, known)), SECONDS_TO_ANSWER)
    reports = {node: heap.report(node, answer) for node, answer in answers.items() if isinstance(answer, Ways)}
    for mark in marks:
        heap.told.add(mark)
        flow = msgspec.structs.replace(plan.flow, mark=mark)
        story = tell(flow, reports, Outcome("silent"), directory)
        if story.back and not _was_dropped(story):
            story = tell(flow, reports, _outcome(story), directory)
        story = with_reasons(plan, story, nodes, directory)
        if not dropped or story.verdict.what != "answered":
            yield story
    heap.forget()


def _was_dropped(story: Trace) -> bool:
    return any(hit.verdict == "drop" for hop in (*story.there, *story.back) for hit in hop.hits)


def _outcome(story: Trace) -> Outcome:
    """An answer that came back as far as the node it was asked from."""
    first, last = story.there[0] if story.there else None, story.back[-1]
    if first is None or first.node != last.node or not last.seen or not last.seen.leaving:
        return Outcome("silent")
    took = (last.time - first.time) / 1e6
    return Outcome("refused" if {"RST", "ABORT"} & set(last.seen.headers.flags) else "answered", milliseconds=took)
