"""Which of the commands that mend something may be run without asking a person: those that add what is missing and break nothing.

Never among them: firewall rules, whole devices, services. Pure. Read next: `netscope/commands/doctor.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from netscope.facts import Finding

SAFE = (("sysctl", "-w"), ("modprobe", "br_netfilter"), ("ip", "route", "replace"), ("ip", "neigh", "replace"),
        ("ip", "neigh", "del"), ("bridge", "fdb", "replace"))
LINK = ("ip", "link", "set")  # only: up, and an MTU


def safe_commands(fix: str) -> list[list[str]]:
    """A fix as commands, one after another; none where any of them is not safe."""
    commands = [shlex.split(part) for part in fix.split(";") if part.strip()]
    return commands if all(map(is_safe, commands)) else []


def is_safe(words: list[str]) -> bool:
    """Whether one command is."""
    if tuple(words[:3]) == LINK:
        return words[4:] == ["up"] or (len(words) == 6 and words[4] == "mtu")
    return any(tuple(words[: len(known)]) == known for known in SAFE)


def mendable(findings: Iterable[Finding]) -> Iterator[tuple[Finding, list[list[str]]]]:
    """Those whose fix is safe, each fix of a node once."""
    known = set()
    for each in findings:
        commands = safe_commands(each.fix)
        if commands and (each.node, each.fix) not in known:
            known.add((each.node, each.fix))
            yield each, commands
