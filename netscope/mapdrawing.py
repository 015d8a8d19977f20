"""A map as text, as wide as the terminal is. Pure.

Read next: `netscope/map.py`; `netscope/mappicture.py`, the same as a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from netscope.map import Map, MapNode, MapPair
from netscope.mappicture import ms

NARROWEST = 60


def draw(drawn: Map, width: int) -> str:
    """Blocks of nodes, the pairs as a table, the Services."""
    width = max(width, NARROWEST)
    lines: list[str] = []
    for node in drawn.nodes:
        lines += _block(node)
    if drawn.pairs:
        lines += ["", *_table(drawn, width), "", *_sum(drawn, width)]
    if drawn.services:
        lines += ["", "Services"]
    for service in drawn.services:
        ends = ", ".join(service.endpoints) or "nobody"
        words = f"{service.name} {' '.join(service.addresses) or 'headless'} {' '.join(service.ports)} ─▶ {ends}"
        lines += wrap(f"  {words}", width, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _block(node: MapNode) -> Iterator[str]:
    state = "" if node.ready else "  NOT READY"
    yield f"┌ {node.name} {' '.join(node.addresses)}{state}{'' if node.known else '  (nothing is known of it)'}"
    yield from (f"│   {link}" for link in node.links)
    yield from (f"╞═ {tunnel}" for tunnel in node.tunnels)
    yield f"├ pods {' '.join(node.subnets) or 'without a subnet'}"
    yield from (f"│   {pod}" for pod in node.pods)
    yield "└"


def _table(drawn: Map, width: int) -> Iterator[str]:
    """From the node of the line to the node of the column: milliseconds to the host / to its end of the tunnel.

    Columns that would be too many stand below one another; names that would make them too wide are numbers.
    """
    names = [node.name for node in drawn.nodes]
    pairs = {(pair.source, pair.target): pair for pair in drawn.pairs}
    links = {pair.by for pair in drawn.pairs}
    cells = {key: _cell(pair, with_link=len(links) > 1) for key, pair in pairs.items()}
    column = max(map(len, cells.values()))
    numbered = max(map(len, names)) > column + 4
    heads = [f"{number}" if numbered else name for number, name in enumerate(names, 1)]
    firsts = [f"{number:>3} {name}" if numbered else name for number, name in enumerate(names, 1)]
    first, column = max(map(len, firsts)), max(column, *map(len, heads))
    many = max(1, (width - first) // (column + 2))
    tunnel = "its tunnel" if len(links) > 1 else links.pop() or "no tunnel"
    yield f"milliseconds to the host / by {tunnel} to its end, from the node of the line"
    for begin in range(0, len(names), many):
        here = range(begin, min(begin + many, len(names)))
        yield "  ".join([" " * first, *(heads[place].ljust(column) for place in here)]).rstrip()
        for name, words in zip(names, firsts, strict=True):
            row = [cells.get((name, names[place]), "-").ljust(column) for place in here]
            yield "  ".join([words.ljust(first), *row]).rstrip()


def _cell(pair: MapPair, *, with_link: bool) -> str:
    ways = f"{ms(pair.host)} / {ms(pair.tunnel)}" if pair.asked else "not asked"
    return f"{ways} {pair.by}".rstrip() if with_link else ways


def _sum(drawn: Map, width: int) -> Iterator[str]:
    asked = [pair for pair in drawn.pairs if pair.asked]
    lost = [pair for pair in asked if not pair.works]
    if asked:
        yield f"{len(asked) - len(lost)} of {len(asked)} ways between nodes answer"
    for pair in lost:
        words = f"  LOST from {pair.source} to {pair.target}: {'the host' if pair.host is None else pair.by or 'the tunnel'}"
        yield from wrap(words, width, subsequent_indent=" " * 6, break_on_hyphens=False)
