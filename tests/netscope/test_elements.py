"""The element of a map that a packet met, without reading the map."""

from __future__ import annotations

import msgspec
import pytest

from netscope.elements import element_of
from netscope.flow import TCP
from netscope.headers import Headers
from netscope.records import Hit

BEFORE = Headers("10.1.0.2", "10.96.0.10", TCP, 4000, 80, 64)
AFTER = Headers("10.1.0.2", "10.2.0.2", TCP, 4000, 8080, 63)
KEY = "ip daddr . meta l4proto . th dport"


@pytest.mark.parametrize(("rule", "verdict", "element"), [
    (f"{KEY} vmap @services", "goto lb-2", "services { 10.96.0.10 . tcp . 80 : goto lb-2 }"),
    (f"meta l4proto @protocols dnat ip to {KEY} . meta priority map @ends", "accept",
     "ends { 10.96.0.10 . tcp . 80 . * : 10.2.0.2 . 8080 }"),
    (f"{KEY} . numgen random mod 2 vmap @slots", "goto a", "slots { 10.96.0.10 . tcp . 80 . * : goto a }"),
    ("ip saddr . tcp sport vmap @them", "drop", "them { 10.1.0.2 . 4000 : drop }"),
    (f"{KEY} vmap @services", "continue", ""), ("tcp dport 80 dnat to 10.2.0.2:8080", "accept", "")])
def test_it_is_worked_out(rule: str, verdict: str, element: str) -> None:
    hit = Hit(1, "ip", "t", "c", 5, rule, verdict, "eth0", BEFORE)
    assert element_of(hit, AFTER) == element
    assert element_of(msgspec.structs.replace(hit, headers=None), AFTER) == ""
