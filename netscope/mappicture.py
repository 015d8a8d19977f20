"""A map as an SVG picture, for light and dark alike, and as large as it has to be.

Few nodes stand in a circle with a line between every two; of more, boxes stand in rows, and a table below has a square for every
two: its number is the tunnel's milliseconds, its colour how that compares, red is lost. Letters are all equally wide, so it is
known how much room words take. Pure. Read next: `netscope/map.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import cos, pi, sin
from textwrap import wrap
from xml.sax.saxutils import escape

from netscope.map import Map, MapNode, MapPair, MapService

FEW = 6  # nodes, between which lines can still be told apart
LETTER, LINE, EDGE, SHOWN, LONGEST = 6.7, 15, 24, 6, 52
SQUARE, ROWS_WIDTH, NARROWEST = 34, 1500, 700
STYLE = """
:root{--paper:#fff;--ink:#1c2733;--faint:#5b6b7a;--box:#f4f6f8;--edge:#34495e;--good:#2e7d32;--bad:#c0392b;--badbox:#fdecea;--fast:#d7efd9}
@media(prefers-color-scheme:dark){:root{--paper:#14191f;--ink:#e4e9ee;--faint:#9aa8b5;--box:#1f2730;--edge:#7f93a6;--good:#66bb6a;
--bad:#ff7466;--badbox:#45211f;--fast:#1f4425}}
text{font:11px monospace;fill:var(--ink)}.name{font-weight:bold}.faint{fill:var(--faint)}.paper{fill:var(--paper)}
.box{fill:var(--box);stroke:var(--edge)}.bad{stroke:var(--bad);fill:var(--badbox)}.way{stroke:var(--good);stroke-width:2}
.lost{stroke:var(--bad);stroke-width:3;stroke-dasharray:6 4}.unasked{stroke:var(--faint)}
.fast{fill:var(--fast)}.gone{fill:var(--bad)}.none{fill:var(--box)}
.in{text-anchor:middle}.on{fill:#fff;font-weight:bold}
"""
PARTS = (0.5, *(part for step in range(1, 17) for part in (0.5 - step / 40, 0.5 + step / 40)))  # of a line, from its middle on
GAP = 3
Point = tuple[float, float]
Area = tuple[float, float, float, float]  # left, top, width, height


def svg(drawn: Map) -> str:
    """The picture."""
    if len(drawn.nodes) <= FEW:
        parts, width, height = _circle(drawn)
    else:
        parts, width, height = _rows(drawn)
    width = max(width, NARROWEST)
    words = [line for each in _services(drawn.services) for line in wrap(
        each, int((width - 2 * EDGE) / LETTER), subsequent_indent=" " * 6, break_on_hyphens=False)]
    parts += [_text(EDGE, height + LINE * (place + 1), line) for place, line in enumerate(words)]
    height += LINE * len(words) + EDGE
    size = f'width="{width:.0f}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width:.0f} {height:.0f}"><style>{STYLE}</style>'
    return "\n".join([head, f'<rect class="paper" {size}/>', *parts, "</svg>"]) + "\n"


def _circle(drawn: Map) -> tuple[list[str], float, float]:
    """Nodes on an ellipse that is large enough for boxes not to meet."""
    boxes, count = {node.name: _words(node) for node in drawn.nodes}, len(drawn.nodes)
    wide = max((_width(words) for words in boxes.values()), default=200)
    high = max((_height(words) for words in boxes.values()), default=100)
    across, down = (wide + 150, (high + 90) * 1.15) if count > 3 else (wide * 0.85 + 110, (high + 70) * 0.75 * (count > 2))
    middle = across + wide / 2 + EDGE, down + high / 2 + EDGE
    places = {name: (middle[0] - across * cos(2 * pi * number / count), middle[1] - down * sin(2 * pi * number / count))
              for number, name in enumerate(boxes)}
    pairs = {(pair.source, pair.target): pair for pair in drawn.pairs}
    ways = [(pair, pairs[pair.target, pair.source]) for pair in drawn.pairs if pair.source < pair.target]
    parts = [_line(pair, back, places) for pair, back in ways]
    taken = [(*_corner(places[name], words), _width(words), _height(words)) for name, words in boxes.items()]
    parts += [_label(pair, back, places, taken) for pair, back in ways]
    for node in drawn.nodes:
        parts += _box(node, boxes[node.name], *_corner(places[node.name], boxes[node.name]))
    return parts, 2 * middle[0], 2 * middle[1]


def _corner(place: Point, words: Sequence[str]) -> Point:
    return place[0] - _width(words) / 2, place[1] - _height(words) / 2


def _line(pair: MapPair, back: MapPair, places: dict[str, Point]) -> str:
    (x, y), (u, v) = places[pair.source], places[pair.target]
    kind = "unasked" if not pair.asked else "way" if pair.works and back.works else "lost"
    return f'<line class="{kind}" x1="{x:.0f}" y1="{y:.0f}" x2="{u:.0f}" y2="{v:.0f}"/>'


def _label(pair: MapPair, back: MapPair, places: dict[str, Point], taken: list[Area]) -> str:
    """Where on the line nothing else is, as near to its middle as that goes."""
    (x, y), (u, v) = places[pair.source], places[pair.target]
    words = [pair.by, f"{ms(pair.tunnel)} / {ms(back.tunnel)} ms"] if pair.asked else [pair.by or "?"]
    width, height = max(map(len, words)) * LETTER + 6, LINE * len(words)
    areas = [(x + (u - x) * part - width / 2, y + (v - y) * part - height / 2, width, height) for part in PARTS]
    area = next((area for area in areas if not any(_meet(area, other) for other in taken)), areas[0])
    taken.append(area)
    left, top = area[:2]
    paper = f'<rect class="paper" x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}"/>'
    lines = [_text(left + width / 2, top + LINE * (place + 1) - 4, word, kind="in") for place, word in enumerate(words)]
    return paper + "".join(lines)


def _meet(one: Area, other: Area) -> bool:
    both = (one, other), (other, one)
    return all(first[side] < second[side] + second[side + 2] + GAP for first, second in both for side in (0, 1))


def _rows(drawn: Map) -> tuple[list[str], float, float]:
    """Boxes side by side, then the table."""
    parts: list[str] = []
    boxes = [_words(node) for node in drawn.nodes]
    wide = max(map(_width, boxes))
    columns = max(1, int((max(ROWS_WIDTH, len(boxes) * SQUARE) - EDGE) // (wide + EDGE)))
    top: float = EDGE
    for begin in range(0, len(boxes), columns):
        row = range(begin, min(begin + columns, len(boxes)))
        for number in row:
            parts += _box(drawn.nodes[number], boxes[number], EDGE + (number - begin) * (wide + EDGE), top, wide)
        top += max(_height(boxes[number]) for number in row) + EDGE
    table, width, height = _table(drawn, top)
    return parts + table, max(width, columns * (wide + EDGE) + EDGE), height


def _table(drawn: Map, top: float) -> tuple[list[str], float, float]:
    names = [node.name for node in drawn.nodes]
    longest = max(map(len, names))
    left, head = EDGE + (min(longest, LONGEST) + 5) * LETTER, top + 3 * LINE
    pairs = {(pair.source, pair.target): pair for pair in drawn.pairs}
    known = sorted(pair.tunnel for pair in drawn.pairs if pair.tunnel is not None)
    slow = 2 * known[len(known) // 2] if known else 0.0
    told = (f"From the node of the line to the end of the tunnel of the column's, in milliseconds; grey: more than {slow:.2f}, "
            "twice the median; red: no answer")
    parts = [_text(EDGE, top + LINE, told, kind="faint")]
    for number, name in enumerate(names):
        line = head + number * LINE
        parts.append(_text(left + (number + 0.5) * SQUARE, head - 6, str(number + 1), kind="faint in"))
        parts.append(_text(EDGE, line + LINE - 4, f"{number + 1:>3} {_short(name)}"))
        for place, other in enumerate(names):
            if pair := pairs.get((name, other)):
                parts.append(_square(pair, left + place * SQUARE, line, slow))
    return parts, left + len(names) * SQUARE + EDGE, head + len(names) * LINE + EDGE


def _square(pair: MapPair, x: float, y: float, slow: float) -> str:
    words, kind = "·", "none"
    if pair.asked and pair.works and pair.tunnel is not None:
        words, kind = f"{pair.tunnel:.2f}" if pair.tunnel < 10 else f"{pair.tunnel:.0f}", "none" if pair.tunnel > slow else "fast"
    elif pair.asked:
        words, kind = "LOST", "gone"
    told = f"{pair.source} to {pair.target}: host {ms(pair.host)}, {pair.by} {ms(pair.tunnel)}"
    return (f'<g><title>{escape(told)}</title><rect class="{kind}" x="{x + 1:.0f}" y="{y + 1:.0f}" width="{SQUARE - 2}" '
            f'height="{LINE - 2}"/>{_text(x + SQUARE / 2, y + LINE - 4, words, kind="in on" if kind == "gone" else "in")}</g>')


def _words(node: MapNode) -> list[str]:
    more = len(node.pods) - SHOWN
    pods = [*node.pods[:SHOWN], *([f"and {more} more pods"] if more > 0 else [])]
    state = "" if node.ready and node.known else " NOT READY" if node.known else " nothing is known of it"
    found = [f"{node.name}{state}", *node.addresses, *node.tunnels, f"pods {' '.join(node.subnets) or 'without a subnet'}", *pods]
    return [_short(word) for word in found]


def _width(words: Sequence[str]) -> float:
    return max(map(len, words)) * LETTER + 16


def _height(words: Sequence[str]) -> float:
    return LINE * len(words) + 12


def _box(node: MapNode, words: Sequence[str], left: float, top: float, width: float = 0) -> Iterator[str]:
    kind = "box" if node.ready and node.known else "box bad"
    size = f'width="{width or _width(words):.0f}" height="{_height(words):.0f}"'
    yield f'<rect class="{kind}" x="{left:.0f}" y="{top:.0f}" {size} rx="6"/>'
    for place, word in enumerate(words):
        yield _text(left + 8, top + LINE * (place + 1) + 2, word, kind="" if place else "name")


def _services(services: Sequence[MapService]) -> Iterator[str]:
    for each in services:
        more = len(each.endpoints) - SHOWN
        ends = ", ".join([*each.endpoints[:SHOWN], *([f"and {more} more"] if more > 0 else [])]) or "nobody"
        yield f"{each.name} {' '.join(each.addresses) or 'headless'} {' '.join(each.ports)} → {ends}"


def _short(words: str) -> str:
    return words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"


def ms(value: float | None) -> str:
    """Milliseconds, or that there was no answer."""
    return "LOST" if value is None else f"{value:.2f}"


def _text(x: float, y: float, words: str, *, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" xml:space="preserve">{escape(words)}</text>'
