"""What every node saw, put into one story: the probe's way and its answer's, hop by hop, and what ended it.

Pure. Must not know: how it was seen. Read next: `netscope/hops.py`, `netscope/blame.py`; `netscope/drawing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netscope.blame import Case, Verdict, judge
from netscope.directory import Directory
from netscope.flow import Flow
from netscope.headers import Headers
from netscope.hops import Hop, hops_of
from netscope.records import Outcome, Report


@dataclass(frozen=True, slots=True)
class Trace:
    """The way there, the way back, and how it ended; `lost` packets escaped us, `remarks` say what could not be looked at."""

    there: tuple[Hop, ...]
    back: tuple[Hop, ...]
    verdict: Verdict
    milliseconds: float
    lost: int
    remarks: tuple[str, ...] = ()

    @property
    def last(self) -> Hop | None:
        """The last sight of it, or of its answer."""
        return next((hop for hop in reversed(self.back or self.there) if hop.seen), None)


def tell(flow: Flow, reports: Mapping[str, Report], outcome: Outcome, directory: Directory) -> Trace:
    """The whole story."""
    there, back = (hops_of(reports, _first(reports, flow, back=back)) for back in (False, True))
    ways = {(node, way.address): way for node, report in reports.items() for way in report.ways}
    switches = {node: report.switches for node, report in reports.items()}
    verdict = judge(Case(flow, there, back, ways, switches, directory), outcome)
    remarks = tuple(f"{node}: {remark}" for node, report in reports.items() for remark in report.remarks)
    return Trace(there, back, verdict, outcome.milliseconds, sum(report.lost for report in reports.values()), remarks)


def _first(reports: Mapping[str, Report], flow: Flow, *, back: bool) -> Headers | None:
    """The first packet of the flow in one direction that bears the mark; without one, the first whose rules were traced."""
    def marked(headers: Headers) -> bool:
        return (headers.target_port if back else headers.source_port) == flow.mark

    seen = [(each.time, each.headers) for report in reports.values() for each in report.seen if marked(each.headers)]
    if seen:
        return min(seen, key=lambda pair: pair[0])[1]
    return next((hit.headers for report in reports.values() for hit in report.hits if hit.headers and marked(hit.headers)), None)
