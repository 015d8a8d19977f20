"""The map as a picture and as text, for few nodes and many: nothing lies on anything else, and it is no wider than asked for."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest

from netscope.map import Map, MapNode, MapPair, MapService
from netscope.mapdrawing import draw
from netscope.mappicture import LETTER, svg

Area = tuple[float, float, float, float]
SIZES = (1, 2, 3, 4, 5, 6, 7, 20, 60)


def made(count: int) -> Map:
    """Between every two nodes there is an answer, but from the first to the second."""
    names = [f"ip-10-0-{number}-17.eu-west-1.compute.internal" if count > 20 else f"node-{number}" for number in range(count)]
    nodes = tuple(MapNode(
        name, (f"192.168.77.{number}", f"fd00:77::{number}"), (f"10.244.{number}.0/24", f"fd00:10:244:{number}::/64"),
        (f"flannel.1 VXLAN 1 10.244.{number}.0 MTU 1450",), ("eth0 MTU 1500",),
        tuple(f"demo/web-qzmwjm6mp6-{pod} 10.244.{number}.{pod}" for pod in range(number % 11)), number != 1, True)
        for number, name in enumerate(names))
    pairs = tuple(MapPair(one, other, "flannel.1", True, 0.25, None if (one, other) == tuple(names[:2]) else 0.5)
                  for one, other in itertools.permutations(names, 2))
    ends = tuple(f"pod/demo/web-qzmwjm6mp6-{pod}:8080" for pod in range(30))
    return Map(nodes, pairs, (MapService("demo/web", ("10.96.0.10",), ("80/TCP",), ends), MapService("demo/x", (), (), ())))


def areas(picture: ElementTree.Element, kind: str) -> list[Area]:
    found = [each for each in picture.iter() if each.tag.endswith("rect") and kind in each.get("class", "").split()]
    return [(float(each.get("x", 0)), float(each.get("y", 0)), float(each.get("width", 0)), float(each.get("height", 0)))
            for each in found]


def meet(one: Area, other: Area) -> bool:
    return all(first[side] < second[side] + second[side + 2] for first, second in ((one, other), (other, one)) for side in (0, 1))


@pytest.mark.parametrize("count", SIZES)
def test_nothing_lies_on_anything_else(count: int) -> None:
    picture = ElementTree.fromstring(svg(made(count)))
    width, height = (float(picture.get(name, 0)) for name in ("width", "height"))
    paper, *labels = areas(picture, "paper")
    boxes = areas(picture, "box")
    assert (len(boxes), paper[2:]) == (count, (width, height))
    assert not any(meet(one, other) for one, other in itertools.combinations([*boxes, *labels], 2))
    for each in picture.iter():
        if each.tag.endswith("text"):
            x, y, room = float(each.get("x", 0)), float(each.get("y", 0)), len(each.text or "") * LETTER
            left = x - room / 2 if "in" in each.get("class", "").split() else x
            assert left >= 0
            assert left + room <= width
            assert 0 < y <= height
            inside = [box for box in boxes if box[0] < x < box[0] + box[2] and box[1] < y < box[1] + box[3]]
            assert all(x + room <= box[0] + box[2] for box in inside)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("width", [80, 100, 300])
def test_text_is_as_wide_as_the_terminal(count: int, width: int) -> None:
    drawn = made(count)
    lines = draw(drawn, width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.count("0.25 / ") for line in lines) == len(drawn.pairs)
    assert sum("LOST from" in line for line in lines) == (count > 1)
