"""`netscope doctor`: examine every node, hold all facts against every check, print what is wrong with the command that mends it.

Changes nothing. Read next: `netscope/checks/`.
"""

from __future__ import annotations

from collections.abc import Sequence

from netscope.checks import CHECKS
from netscope.facts import Facts, Finding
from netscope.nodes import Nodes
from netscope.records import Examine

SECONDS = 20.0


def findings_of(names: tuple[str, ...], via: str) -> list[Finding]:
    """All that is wrong on these nodes."""
    with Nodes(names, via) as nodes:
        answers = nodes.ask_all(Examine(), SECONDS)
    cluster = {name: facts for name, facts in answers.items() if isinstance(facts, Facts)}
    return [finding for check in CHECKS for finding in check(cluster)]


def draw(findings: Sequence[Finding], nodes: int) -> str:
    """One paragraph a finding, and the sum."""
    lines = []
    for each in findings:
        lines += [f"{each.node}: {each.what}", f"    seen: {each.evidence}", *([f"    mend: {each.fix}"] if each.fix else [])]
    count = f"{len(findings)} finding{'s' if len(findings) != 1 else ''}"
    return "\n".join([*lines, f"{len(CHECKS)} checks on {nodes} node{'s' if nodes != 1 else ''}: {count}"])
