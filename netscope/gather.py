"""A scene of the live cluster: its objects from the API, its nodes' facts from an agent on each.

A node whose agent does not answer is told as missing, the others are looked at all the same. Read next: `netscope/nodes.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from netscope import cluster
from netscope.echoes import ends_of, targets_of
from netscope.facts import Facts
from netscope.nodes import Nodes
from netscope.records import Examine, Flows, Reach, Reached, Watch
from netscope.scene import Objects, Scene
from nodecore.errors import Fault

SECONDS = 60.0
SEARCHING, NEAR = 0.4, 4  # seconds for each try at a size; bytes that are exact enough


def gather(kubeconfig: str, via: str, *, sending: bool) -> Scene:
    """Now; `sending`: with echoes between the nodes."""
    objects = cluster.read_objects(kubeconfig)
    with Nodes(tuple(node.metadata.name for node in objects.nodes), via) as nodes:
        scene = look(objects, nodes)
        return with_echoes(scene, nodes) if sending else scene


def with_connections(scene: Scene, via: str) -> Scene:
    """The same, with what each node's connection tracking knows."""
    with Nodes(tuple(scene.facts), via) as nodes:
        answers = nodes.ask_each(Watch(), SECONDS)
    known = {name: answer.now for name, answer in answers.items() if isinstance(answer, Flows)}
    return msgspec.structs.replace(scene, connections=known)


def with_echoes(scene: Scene, nodes: Nodes, seconds: float = 2.0) -> Scene:
    """The same, with every node having asked every other and its end of the tunnel; whoever was silent is asked again."""
    ends = ends_of(scene)
    echoes = _echoes(nodes, {name: Reach(addresses, seconds) for name, addresses in targets_of(scene).items() if addresses})
    answering = {name: tuple(address for address in ends[name][0] if address in told) for name, told in echoes.items()}
    large = _echoes(nodes, {name: Reach(addresses, seconds, ends[name][1]) for name, addresses in answering.items() if addresses})
    silent = {name: (too_large, ends[name][1]) for name, addresses in answering.items()
              if (too_large := tuple(address for address in addresses if address not in large.get(name, {})))}
    return msgspec.structs.replace(scene, echoes=echoes, large=large, fits=_fitting(nodes, silent, min(seconds, SEARCHING)))


def _fitting(nodes: Nodes, silent: Mapping[str, tuple[tuple[str, ...], int]], seconds: float) -> dict[str, int]:
    """For each node the most bytes that an echo to all of these addresses may have, by halving; 0 where none arrives."""
    least, most = {name: 0 for name in silent}, {name: size for name, (_, size) in silent.items()}
    while open_ones := [name for name in silent if most[name] - least[name] > NEAR]:
        tried = {name: (least[name] + most[name]) // 2 for name in open_ones}
        questions = {name: Reach(silent[name][0], seconds, size) for name, size in tried.items()}
        for name, answer in nodes.ask_each(questions, SECONDS).items():
            arrived = isinstance(answer, Reached) and len(answer.milliseconds) == len(silent[name][0])
            (least if arrived else most)[name] = tried[name]
    return least


def _echoes(nodes: Nodes, questions: dict[str, Reach]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for _ in range(2):
        for name, answer in nodes.ask_each(questions, SECONDS).items():
            if isinstance(answer, Reached):
                found[name] = {**answer.milliseconds, **found.get(name, {})}
        questions = {name: msgspec.structs.replace(each, addresses=silent) for name, each in questions.items()
                     if (silent := tuple(address for address in each.addresses if address not in found.get(name, {})))}
    return found


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
