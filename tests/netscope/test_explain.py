"""A packet's way worked out from facts is the one that a real packet goes, and what stops a real one is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import net_by_hand
import pytest
from net_by_hand import Net
from scene_by_hand import scene_of

from netscope.doctor import findings_in
from netscope.explain import Explanation, draw, explain
from nodecore.net import Family

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        yield net_by_hand.make(stack)


def test_ipv6_as_well() -> None:
    with ExitStack() as stack:
        net = net_by_hand.make(stack, Family.IPV6)
        scene = scene_of(net)
        assert [each.what for each in findings_in(scene)] == ["no rule translates service/default/web:80"]  # on b
        (told,) = explain(scene, ["pod/a"], "svc/web:80", "tcp")
        assert told.arrives
        assert told.ways[0].end == "fd00:2::2 8080"


def explained(net: Net, source: str = "pod/a", target: str = "svc/web:80") -> Explanation:
    return explain(scene_of(net), [source], target, "tcp")[0]


def test_the_whole_way_is_told(net: Net) -> None:
    told = explained(net)
    text = draw(told)
    assert told.arrives
    assert "delivered to 10.2.0.2 (pod/default/b):8080, and answered" in text
    assert "ip services pre: ip daddr 10.96.0.10 tcp dport 80 dnat to 10.2.0.2:8080" in text
    assert "10.2.0.0/24 via 10.2.0.0 dev flannel.1" in text
    assert "VXLAN 1 to 192.168.50.2 port 8472" in text
