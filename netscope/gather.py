"""A scene of the live cluster: its objects from the API, its nodes' facts from an agent on each.

A node whose agent does not answer is told as missing, the others are looked at all the same. Read next: `netscope/nodes.py`.
"""

from __future__ import annotations

import asyncio
import time

from netscope import cluster
from netscope.facts import Facts
from netscope.nodes import Nodes
from netscope.records import Examine
from netscope.scene import Objects, Scene
from nodecore.errors import Fault

SECONDS = 60.0


def gather(kubeconfig: str, via: str) -> Scene:
    """Now."""
    objects = asyncio.run(cluster.read_objects(kubeconfig))
    with Nodes(tuple(node.metadata.name for node in objects.nodes), via) as nodes:
        return look(objects, nodes)


def look(objects: Objects, nodes: Nodes) -> Scene:
    """At these objects' nodes."""
    facts: dict[str, Facts] = {}
    missing: dict[str, str] = {}
    skew: dict[str, float] = {}
    begin = time.time()
    for name, answer in nodes.ask_each(Examine(), SECONDS).items():
        if isinstance(answer, Fault):
            missing[name] = str(answer)
        elif isinstance(answer, Facts):
            facts[name] = answer
            skew[name] = _off(answer.settings.clock, begin, time.time())
    return Scene(begin, objects, facts, missing, skew)


def _off(clock: float, begin: float, end: float) -> float:
    """How far a clock is outside the time in which it was asked."""
    return clock - end if clock > end else min(0.0, clock - begin)
