"""A map as text for a terminal, and as an SVG picture.

Pure. Read next: `netscope/map.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import cos, pi, sin
from xml.sax.saxutils import escape

from netscope.map import Map, MapNode, MapPair

WIDTH, HEIGHT, BOX, LINE, SHOWN = 1200, 900, 250, 15, 6
STYLE = ("text{font:12px sans-serif}.name{font-weight:bold}.box{fill:#f4f6f8;stroke:#34495e}.bad{stroke:#c0392b;fill:#fdecea}"
         ".way{stroke:#2e7d32;stroke-width:2}.lost{stroke:#c0392b;stroke-width:3;stroke-dasharray:6 4}.unasked{stroke:#90a4ae}"
         ".ms{fill:#37474f;paint-order:stroke;stroke:#fff;stroke-width:3px}")


def draw(drawn: Map) -> str:
    """Blocks of nodes, the pairs as a table, the Services."""
    lines: list[str] = []
    for node in drawn.nodes:
        lines += _block(node)
    if drawn.pairs:
        lines += ["", *_table(drawn)]
    if drawn.services:
        lines += ["", "Services"]
    for service in drawn.services:
        ends = ", ".join(service.endpoints) or "nobody"
        lines.append(f"  {service.name} {' '.join(service.addresses) or 'headless'} {' '.join(service.ports)} ─▶ {ends}")
    return "\n".join(lines)


def _block(node: MapNode) -> Iterator[str]:
    state = "" if node.ready else "  NOT READY"
    yield f"┌ {node.name} {' '.join(node.addresses)}{state}{'' if node.known else '  (nothing is known of it)'}"
    yield from (f"│   {link}" for link in node.links)
    yield from (f"╞═ {tunnel}" for tunnel in node.tunnels)
    yield f"├ pods {' '.join(node.subnets) or 'without a subnet'}"
    yield from (f"│   {pod}" for pod in node.pods)
    yield "└"


def _table(drawn: Map) -> Iterator[str]:
    """From the node of the line to the node of the column: host / tunnel, in milliseconds."""
    names = [node.name for node in drawn.nodes]
    pairs = {(pair.source, pair.target): pair for pair in drawn.pairs}
    cells = [["from \\ to", *names]]
    cells += [[name, *(_cell(pairs.get((name, other))) for other in names)] for name in names]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    yield from ("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def _cell(pair: MapPair | None) -> str:
    if pair is None:
        return "-"
    ways = f"{_ms(pair.host)} / {_ms(pair.tunnel)}" if pair.asked else "not asked"
    return f"{ways} {pair.by}".rstrip()


def _ms(value: float | None) -> str:
    return "LOST" if value is None else f"{value:.2f}"


def svg(drawn: Map) -> str:
    """Nodes on a circle, a line between every two, Services below."""
    count = max(1, len(drawn.nodes))
    places = {node.name: (WIDTH / 2 + (WIDTH / 2 - BOX * 0.7) * cos(2 * pi * place / count - pi),
                          HEIGHT / 2 + (HEIGHT / 2 - 110) * sin(2 * pi * place / count - pi))
              for place, node in enumerate(drawn.nodes)}
    height = HEIGHT + LINE * (len(drawn.services) + 2)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
             f"<style>{STYLE}</style>"]
    both = {(pair.source, pair.target): pair for pair in drawn.pairs}
    parts += [_way(pair, both[pair.target, pair.source], places) for pair in drawn.pairs if pair.source < pair.target]
    parts += [line for node in drawn.nodes for line in _box(node, *places[node.name])]
    for place, service in enumerate(drawn.services):
        ends = ", ".join(service.endpoints) or "nobody"
        parts.append(_text(20, HEIGHT + LINE * (place + 1),
                           f"{service.name} {' '.join(service.addresses)} {' '.join(service.ports)} → {ends}"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _way(pair: MapPair, back: MapPair, places: dict[str, tuple[float, float]]) -> str:
    (x, y), (u, v) = places[pair.source], places[pair.target]
    kind = "unasked" if not pair.asked else "way" if pair.works and back.works else "lost"
    words = f"{pair.by} {_ms(pair.tunnel)} ms / {_ms(back.tunnel)} ms" if pair.asked else pair.by
    return (f'<line class="{kind}" x1="{x:.0f}" y1="{y:.0f}" x2="{u:.0f}" y2="{v:.0f}"/>'
            + _text((x + u) / 2, (y + v) / 2, words, kind="ms", middle=True))


def _box(node: MapNode, x: float, y: float) -> Iterator[str]:
    pods = [*node.pods[:SHOWN], *([f"and {len(node.pods) - SHOWN} more pods"] if len(node.pods) > SHOWN else [])]
    words = [" ".join(node.addresses), *node.tunnels, f"pods {' '.join(node.subnets)}", *pods]
    height = LINE * (len(words) + 2)
    left, top = x - BOX / 2, y - height / 2
    kind = "box" if node.ready and node.known else "box bad"
    yield f'<rect class="{kind}" x="{left:.0f}" y="{top:.0f}" width="{BOX}" height="{height}" rx="6"/>'
    yield _text(left + 8, top + LINE, node.name, kind="name")
    yield from (_text(left + 8, top + LINE * (place + 2), word) for place, word in enumerate(words))


def _text(x: float, y: float, words: str, *, kind: str = "", middle: bool = False) -> str:
    middle_words = ' text-anchor="middle"' if middle else ""
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}"{middle_words}>{escape(words)}</text>'
