"""Who is to ask whom for an echo, so that every way between two nodes is tried.

Pure. Read next: `netscope/gather.py`, which has them asked; `netscope/checks/echoes.py`, which judges the silence.
"""

from __future__ import annotations

from netscope.checks.cluster import Vtep, vteps
from netscope.checks.echoes import HEADERS
from netscope.scene import Scene, node_addresses


def _ends(scene: Scene, name: str) -> list[Vtep]:
    return vteps({name: scene.facts[name]}) if name in scene.facts else []


def targets_of(scene: Scene) -> dict[str, tuple[str, ...]]:
    """Whom each node is to ask: every other's address, and its end of the tunnel."""
    everybody = {node.metadata.name: (*node_addresses(node), *(each.address for each in _ends(scene, node.metadata.name)))
                 for node in scene.objects.nodes}
    return {name: tuple(address for other, addresses in everybody.items() if other != name for address in addresses)
            for name in scene.facts}


def ends_of(scene: Scene) -> dict[str, tuple[tuple[str, ...], int]]:
    """The others' ends of each node's tunnel, and how many bytes an echo of the largest packet has."""
    found = {}
    for name in scene.facts:
        ends = tuple(end for other in scene.facts if other != name for end in _ends(scene, other))
        sizes = [end.link.mtu - HEADERS[6 if ":" in end.address else 4] for end in _ends(scene, name)]
        found[name] = tuple(end.address for end in ends), max(0, min(sizes, default=0))
    return found
