"""A trace as text: one block a node, one line an interface, the rules and the reason for the next hop below it.

Pure. Must not know: colours of terminals. Read next: `netscope/story.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from netscope.blame import Verdict
from netscope.directory import Directory
from netscope.flow import NAMES
from netscope.headers import Headers
from netscope.hops import Hop
from netscope.story import Trace


def draw(trace: Trace, directory: Directory) -> str:
    """The whole."""
    lines = [*_way("there", trace.there, directory), *_way("back", trace.back, directory)]
    lines.append(_ending(trace.verdict, trace.milliseconds))
    if trace.lost:
        lines.append(f"{trace.lost} packets came too fast to be seen: parts of the way may be missing")
    return "\n".join((*lines, *trace.remarks))


def _way(title: str, hops: Sequence[Hop], directory: Directory) -> Iterator[str]:
    if not hops:
        return
    begin = hops[0].time
    for place, (node, some) in enumerate(groupby(hops, key=lambda hop: hop.node)):
        yield f"{title if place == 0 else '':<6}┌ {node}"
        before: Headers | None = None
        for hop in some:
            if hop.seen:
                yield f"{(hop.time - begin) / 1e6:6.3f}│ {_sight(hop, before, directory)}"
                before = hop.seen.headers
            yield from (f"      │     {line}" for line in _reasons(hop))
        yield "      └"


def _sight(hop: Hop, before: Headers | None, directory: Directory) -> str:
    assert hop.seen
    headers = hop.seen.headers
    arrow = "->" if hop.seen.leaving else "<-"
    text = f"{arrow} {hop.seen.interface:<12} "
    if before is None or before.ends != headers.ends:
        who = _who(headers.source, headers.source_port, directory), _who(headers.target, headers.target_port, directory)
        text += f"{' to '.join(who)} {NAMES[headers.protocol].upper()} {' '.join(headers.flags)}".rstrip()
    if headers.tunnel:
        kind = "IP in IP" if headers.tunnel.vni is None else f"VXLAN {headers.tunnel.vni}"
        text += f" in {kind}: {headers.tunnel.source} to {headers.tunnel.target}"
    return text.rstrip()


def _who(address: str, port: int, directory: Directory) -> str:
    name = directory.name_of(address)
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{port}" + (f" ({name})" if name else "")


def _reasons(hop: Hop) -> Iterator[str]:
    for hit in hop.hits:
        if hit.verdict not in ("continue", "accept") or hit.handle:
            yield f"{hit.family} {hit.table} {hit.chain}: {hit.rule} => {hit.verdict}"
    if hop.way:
        way = hop.way
        yield " ".join(filter(None, (
            f"route to {way.address}:", f"via {way.gateway}" if way.gateway else "directly", f"dev {way.link},",
            f"neighbour {way.mac}" if way.mac else "", f"behind {way.host}" if way.host else "")))


def _ending(verdict: Verdict, milliseconds: float) -> str:
    match verdict.what:
        case "answered":
            return f"answered after {milliseconds:.2f} ms"
        case "refused":
            return f"refused{_at(verdict)}"
        case _:
            mend = f"\nto mend it: {verdict.mend}" if verdict.mend else ""
            return f"{verdict.what.upper()}{_at(verdict)}{mend}"


def _at(verdict: Verdict) -> str:
    return (f" on {verdict.where}" if verdict.where else "") + (f": {verdict.why}" if verdict.why else "")
