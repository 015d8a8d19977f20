"""Silence between nodes that no rule explains: something between the hosts takes the tunnel's packets, or only the large ones.

Echoes are looked at where they were asked for. A firewall that the rules show is told by `journeys.py`, with the rule.
Pure. Read next: `netscope/echoes.py`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from netscope.checks.cluster import Vtep, vteps
from netscope.facts import Finding
from netscope.scene import Scene
from netscope.walk.journey import Question, World

ICMP = {4: 1, 6: 58}
HEADERS = {4: 28, 6: 48}  # IP and ICMP


def silent(scene: Scene, sick: Container[str] = ()) -> Iterator[Finding]:
    """Each end of a tunnel answers every other, packets of full size too; on `sick` nodes something else is known to be wrong."""
    ends = vteps(scene.facts)
    world = World(scene.facts, scene.directory) if scene.echoes else None
    for here in ends:
        for there in ends:
            same = here.vni == there.vni and (":" in here.address) == (":" in there.address)
            if here.node == there.node or not same or world is None or here.node not in scene.echoes or (
                    here.node in sick or there.node in sick):
                continue
            if _let_through(world, here, there):
                yield from _silent(scene, here, there)


def _silent(scene: Scene, here: Vtep, there: Vtep) -> Iterator[Finding]:
    told = scene.echoes[here.node]
    if there.address in told:
        if there.address not in scene.large.get(here.node, {}):
            fits = scene.fits.get(here.node, 0)
            room = fits + HEADERS[6 if ":" in there.address else 4] if fits else here.link.mtu - 50
            yield Finding(here.node, f"small packets get to {there.node} through the tunnel, large ones do not",
                          f"an echo of {here.link.mtu} bytes to {there.address}{f', one of {room} does' if fits else ''}: "
                          "a smaller MTU somewhere between the hosts", f"ip link set {here.link.ifname} mtu {room}")
    elif there.host in told:
        yield Finding(here.node, f"the tunnel to {there.node} lets nothing through",
                      f"{there.host} answers, {there.address} does not, and no rule of both says why: something between them "
                      f"blocks UDP {here.port}")
    else:
        yield Finding(here.node, f"{there.node} does not answer", f"neither {there.host} nor {there.address} in its tunnel")


def _let_through(world: World, here: Vtep, there: Vtep) -> bool:
    """Whether all that is known says that an echo arrives."""
    question = Question(here.address, there.address, ICMP[6 if ":" in here.address else 4], 0, 0)
    return all(way.what == "delivered" for way in world.ways(question, 1))

