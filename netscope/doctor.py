"""`netscope doctor`: hold all facts and objects against every check, print what is wrong with the command that mends it.

Pure. Changes nothing. Read next: `netscope/checks/`.
"""

from __future__ import annotations

from collections.abc import Sequence

from netscope.checks import BETWEEN, CHECKS, LAST, SCENE_CHECKS, SILENCE
from netscope.facts import Finding
from netscope.scene import Scene

RESTART = "systemctl"  # mends many things; any other command one


def findings_in(scene: Scene) -> list[Finding]:
    """All that is wrong, each thing once: what the same command mends is one thing.

    A packet that gets lost where something is known to be wrong is no news.
    """
    found = [finding for check in CHECKS for finding in check(scene.facts)]
    found += [finding for look in SCENE_CHECKS for finding in look(scene)]
    found += SILENCE(scene, {finding.node for check in BETWEEN for finding in check(scene.facts)})
    sick = {finding.node for finding in found}
    found += [finding for finding in LAST(scene) if finding.node not in sick or not finding.what.endswith("lost")]
    told: dict[object, Finding] = {}
    for each in found:
        told.setdefault((each.node, each.fix) if each.fix and not each.fix.startswith(RESTART) else each, each)
    return list(told.values())


def draw(findings: Sequence[Finding], nodes: int) -> str:
    """One paragraph a finding, and the sum."""
    lines = []
    for each in findings:
        lines += [f"{each.node}: {each.what}", f"    seen: {each.evidence}", *([f"    mend: {each.fix}"] if each.fix else [])]
    count = f"{len(findings)} finding{'s' if len(findings) != 1 else ''}"
    checks = len(CHECKS) + len(SCENE_CHECKS) + 2
    return "\n".join([*lines, f"{checks} checks on {nodes} node{'s' if nodes != 1 else ''}: {count}"])
