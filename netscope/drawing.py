"""A trace as text: one block a node, one line an interface, below it the rules it met there and the reason for the next hop.

Of a walk through chains only the rules are drawn that decided or changed something, with the chains that led to them. Nothing is
wider than WIDTH. Pure. Must not know: colours of terminals. Read next: `netscope/story.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from netscope.blame import Verdict
from netscope.directory import Directory
from netscope.flow import NAMES
from netscope.headers import Headers
from netscope.hops import Hop
from netscope.records import Connection, Hit
from netscope.story import Trace

WIDTH = 100
MARGIN = "      │ "
LEADING = ("jump", "goto")  # to other chains
UNSAID = ("continue", "accept")  # nobody minded
MARKING = "mark set"


def draw(trace: Trace, directory: Directory) -> str:
    """The whole."""
    lines = [*_way("there", trace.there, directory), *_way("back", trace.back, directory)]
    lines += _ending(trace.verdict, trace.milliseconds)
    if trace.lost:
        lines.append(f"{trace.lost} packets came too fast to be seen: parts of the way may be missing")
    return "\n".join((*lines, *trace.remarks))


def _way(title: str, hops: Sequence[Hop], directory: Directory) -> Iterator[str]:
    if not hops:
        return
    begin = hops[0].time
    before: Headers | None = None
    for place, (node, some) in enumerate(groupby(hops, key=lambda hop: hop.node)):
        yield f"{title if place == 0 else '':<6}┌ {node}"
        for hop in some:
            if hop.seen:
                first, *more = _sight(hop, before, directory)
                yield f"{(hop.time - begin) / 1e6:6.3f}│ {first}"
                yield from (f"{MARGIN}{line}" for line in more)
                before = hop.seen.headers
            yield from (f"{MARGIN}    {line}" for line in _reasons(hop))
        yield "      └"


def _sight(hop: Hop, before: Headers | None, directory: Directory) -> list[str]:
    """Where, and who to whom if that has changed; in a tunnel, between which hosts."""
    assert hop.seen
    headers, arrow = hop.seen.headers, "->" if hop.seen.leaving else "<-"
    said = []
    if before is None or before.ends != headers.ends:
        who = _who(headers.source, headers.source_port, directory), _who(headers.target, headers.target_port, directory)
        said.append(f"{' to '.join(who)}, {NAMES[headers.protocol].upper()} {' '.join(headers.flags)}".rstrip())
    if headers.tunnel:
        kind = "IP in IP" if headers.tunnel.vni is None else f"VXLAN {headers.tunnel.vni}"
        said.append(f"in {kind}: {headers.tunnel.source} to {headers.tunnel.target}")
    return wrapped(f"{arrow} {hop.seen.interface:<12} {', '.join(said)}".rstrip(), indent=" " * 16)


def wrapped(text: str, *, indent: str, initial: str = "", width: int = WIDTH - len(MARGIN)) -> list[str]:
    """In lines that are not too wide; names are never broken."""
    return textwrap.wrap(text, width, initial_indent=initial, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)


def _who(address: str, port: int, directory: Directory) -> str:
    name = directory.name_of(address)
    return _end(address, port) + (f" ({name})" if name else "")


def _reasons(hop: Hop) -> Iterator[str]:
    width = WIDTH - len(MARGIN) - 4
    for _, walk in groupby(hop.hits, key=lambda hit: (hit.packet, hit.family, hit.table)):
        hits = list(walk)
        for text in (*_told(hits), *(f"  element {hit.element}" for hit in hits if hit.element)):
            yield from wrapped(text, indent="  ", width=width)
    if hop.tracked:
        yield from wrapped(_entry(hop.tracked), indent="  ", width=width)
    if hop.way:
        way = hop.way
        route = f"route to {way.address}: {f'via {way.gateway}' if way.gateway else 'directly'} dev {way.link}"
        neighbour = " ".join(filter(None, (f"neighbour {way.mac}" if way.mac else "", f"behind {way.host}" if way.host else "")))
        yield from [route, f"  {neighbour}"] if way.host else [f"{route} {neighbour}".rstrip()]


def _entry(entry: Connection) -> str:
    """Whom it goes from and to; the answer's ends where they are others."""
    source, port, target, to_port = entry.asked
    plain = entry.answered == (target, to_port, source, port)
    answer = "" if plain else f", answered {_between(entry.answered)}"
    return f"conntrack {_between(entry.asked)}{answer}{f' ({entry.state})' if entry.state else ''}"


def _between(ends: tuple[str, int, str, int]) -> str:
    source, port, target, to_port = ends
    return f"{_end(source, port)} to {_end(target, to_port)}"


def _end(address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{port}" if port else host


def _told(walk: Sequence[Hit]) -> Iterator[str]:
    """What decided, with the chains it came through; nothing of chains that had nothing to say."""
    chains: list[str] = []
    led = False
    for hit in walk:
        if not chains or chains[-1] != hit.chain:
            chains = [*chains, hit.chain] if led else [hit.chain]
        word = hit.verdict.partition(" ")[0]
        led = word in LEADING
        if led or (word in UNSAID and not (hit.handle and (word == "accept" or MARKING in hit.rule))):
            continue
        said = "" if hit.rule.endswith(hit.verdict) or word in UNSAID else f" => {hit.verdict}"
        yield f"{hit.family} {hit.table} {' > '.join(chains)}: {hit.rule}{said}"


def _ending(verdict: Verdict, milliseconds: float) -> list[str]:
    match verdict.what:
        case "answered":
            return [f"answered after {milliseconds:.2f} ms"]
        case "refused" if not verdict.mend:
            return wrapped(f"refused{_at(verdict)}", indent="  ", width=WIDTH)
    told = wrapped(f"{verdict.what.upper()}{_at(verdict)}", indent="  ", width=WIDTH)
    if verdict.mend:
        told += [f"to mend it, on {verdict.on or verdict.where}:", f"  {verdict.mend}"]  # in one line, to be copied
    return told


def _at(verdict: Verdict) -> str:
    return (f" on {verdict.where}" if verdict.where else "") + (f": {verdict.why}" if verdict.why else "")
