"""nft's JSON values as values that can be compared, and the sets and maps they are looked up in.

Pure. Read next: `nftrules.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from netscope.walk.packet import Unread
from nodecore.net import IPAddress, IPNetwork

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "ipv6-icmp": 58, "icmpv6": 58, "esp": 50, "ah": 51, "udplite": 136,
             "ipip": 4, "ipencap": 4, "gre": 47, "igmp": 2, "dccp": 33}
FAMILIES = {"ipv4": 2, "ipv6": 10}
CLASS = re.compile(r"([0-9a-f]{1,4}):([0-9a-f]{1,4})")
NUMBERS = {**PROTOCOLS, **FAMILIES, "none": 0}


@dataclass(frozen=True, slots=True)
class Span:
    """From one value to another, both included."""

    low: Any
    high: Any


def value_of(json: Any) -> Any:
    """A constant: a number, an address, a network, a span, a tuple of those, or text as it is."""
    match json:
        case str():
            return _text(json)
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return ip_network(f"{address}/{length}", strict=False)
        case {"range": [low, high]}:
            return Span(value_of(low), value_of(high))
        case {"concat": list(parts)}:
            return tuple(map(value_of, parts))
        case {"elem": {"val": inner}}:
            return value_of(inner)
        case {"|": list(parts)}:
            return sum(map(value_of, parts)) if all(isinstance(part, int) for part in parts) else tuple(map(value_of, parts))
    return json


def _text(text: str) -> Any:
    if text in NUMBERS:
        return NUMBERS[text]
    if found := CLASS.fullmatch(text):
        return int(found[1], 16) << 16 | int(found[2], 16)
    try:
        return ip_address(text)
    except ValueError:
        return text


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value is the wanted one, or inside it."""
    if isinstance(wanted, IPNetwork):
        return isinstance(value, IPAddress) and value in wanted
    if isinstance(wanted, Span):
        return type(value) is type(wanted.low) and bool(wanted.low <= value <= wanted.high)
    if isinstance(wanted, tuple) and isinstance(value, tuple):
        return len(value) == len(wanted) and all(map(fits, value, wanted))
    if isinstance(wanted, str) and wanted.endswith("*") and isinstance(value, str):
        return value.startswith(wanted[:-1])
    return bool(value == wanted)


def _exact(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_exact, value))
    return not isinstance(value, IPNetwork | Span) and not (isinstance(value, str) and value.endswith("*"))


@dataclass(slots=True)
class Members:
    """A set or map: most members are found by their key, those that span something one by one."""

    exact: dict[Any, Any] = field(default_factory=dict)
    spans: list[tuple[Any, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, elements: Any) -> Members:
        """From nft's list: members, or pairs of member and data."""
        made = cls()
        for element in elements if isinstance(elements, list) else [elements] if elements else []:
            key, data = element if isinstance(element, list) else (element, True)
            value = value_of(key)
            if _exact(value):
                made.exact[value] = data
            else:
                made.spans.append((value, data))
        return made

    def find(self, value: Any) -> Any:
        """The data of the member, True where it has none; None where it is no member."""
        try:
            if value in self.exact:
                return self.exact[value]
        except TypeError:
            raise Unread(f"a key {value!r}") from None
        return next((data for wanted, data in self.spans if wanted == "*" or fits(value, wanted)), None)
