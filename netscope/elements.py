"""Which element of a map a packet met: its key from the rule's words and the packet's headers, its data from what came.

Nothing is read for that: a map of a Service proxy may have a hundred thousand elements. What headers do not say (a random number,
a mark) is `*`. Pure. Must not know: the kernel. Read next: `netscope/hops.py`.
"""

from __future__ import annotations

import re

from netscope.flow import NAMES
from netscope.headers import Headers
from netscope.records import Hit

LOOKED_UP = re.compile(r"(?P<key>.+) v?map @(?P<name>\S+)")
SOURCE, TARGET = ("saddr", "sport"), ("daddr", "dport")


def element_of(hit: Hit, after: Headers | None) -> str:
    """As `nft get element` would show it; `after` is the translated packet; empty where the rule looks nothing up."""
    found, before = LOOKED_UP.match(hit.rule), hit.headers
    if found is None or before is None or hit.verdict == "continue":
        return ""
    key = " . ".join(_value(part, before) for part in found["key"].split(" . "))
    data = hit.verdict
    if "dnat" in found["key"]:
        data = f"{after.target} . {after.target_port}" if after else "*"
    return f"{found['name']} {{ {key} : {data} }}"


def _value(part: str, headers: Headers) -> str:
    """Of the last words of one part of a key: the first part has what stands before it as well."""
    *_, head, field = ("", *part.split())
    if field == "l4proto":
        return NAMES.get(headers.protocol, str(headers.protocol))
    if head in ("ip", "ip6") and field in (SOURCE[0], TARGET[0]):
        return headers.source if field == SOURCE[0] else headers.target
    if field in (SOURCE[1], TARGET[1]):
        return str(headers.source_port if field == SOURCE[1] else headers.target_port)
    return "*"
