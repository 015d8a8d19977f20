"""What `ip xfrm` prints (it knows no JSON) as values: addresses alone, as keys are nobody's business.

Pure. Read next: `netscope/checks/ipsec.py`.
"""

from __future__ import annotations

import re

from netscope.facts import IpsecPolicy

ENTRY = re.compile(r"^(?=src )", re.MULTILINE)
ENDS = re.compile(r"src (\S+) dst (\S+)")
DIRECTION = re.compile(r"\bdir (\w+)")
TEMPLATE = re.compile(r"\btmpl src (\S+) dst (\S+)")


def policies_in(text: str) -> tuple[IpsecPolicy, ...]:
    """Those that have a direction: sockets' own have another word."""
    found = []
    for entry in ENTRY.split(text):
        ends, direction, template = ENDS.match(entry), DIRECTION.search(entry), TEMPLATE.search(entry)
        if ends and direction:
            found.append(IpsecPolicy(direction[1], ends[1], ends[2], (template[1], template[2]) if template else ("", "")))
    return tuple(sorted(found, key=lambda each: (each.direction, each.source, each.target)))


def agreed_in(text: str) -> tuple[tuple[str, str], ...]:
    """From whom to whom there is an association, each once; not what still waits for its number (spi 0)."""
    made = (entry for entry in ENTRY.split(text) if "proto esp" in entry and "spi 0x00000000" not in entry)
    return tuple(sorted({(ends[1], ends[2]) for entry in made if (ends := ENDS.match(entry))}))
