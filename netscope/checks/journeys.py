"""Packets that have to arrive, walked through all rules: from each node's pods to every other's, and to each Service.

What a NetworkPolicy forbids need not arrive. Many nodes or Services: each node with a few others, and a part of the Services.
Pure. Read next: `netscope/walk/journey.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netscope.directory import Place
from netscope.facts import Finding
from netscope.flow import End
from netscope.policies import Other, Policies
from netscope.scene import Scene, addresses_of
from netscope.walk.journey import Journey, Question, World
from nodecore.kube.workload import Pod
from nodecore.net import Family, parse_address

ALL_PAIRS, SOME = 12, 3
JOURNEYS_MOST = 4000
WAYS_MOST = 16
TCP = 6
PORT = 8080
REFUSED = ("dropped", "rejected")
GOOD = ("delivered", "outside")


class Traveller:
    """Asks for journeys and tells each trouble once."""

    def __init__(self, scene: Scene) -> None:
        self.directory = scene.directory
        self._world = World(scene.facts, self.directory)
        self._policies = Policies(scene.objects.policies, {each.metadata.name: each.metadata.labels or {}
                                                           for each in scene.objects.namespaces})
        self._pods = {address: pod for pod in scene.objects.pods if not pod.spec.host_network for address in addresses_of(pod)}
        self._told: set[tuple[str, str]] = set()

    def untold(self, question: Question, ways: Sequence[Journey]) -> Iterator[Journey]:
        """Those that end badly, though no policy wants it, and that were not told before."""
        for way in ways:
            trouble = way.where, way.mend or way.why
            if way.what not in GOOD and trouble not in self._told and not self._forbidden(question, way):
                self._told.add(trouble)
                yield way

    def ways(self, question: Question) -> list[Journey]:
        """All."""
        return self._world.ways(question, WAYS_MOST)

    def _forbidden(self, question: Question, way: Journey) -> bool:
        address, _, port = (way.end or f"{question.target} {question.port}").rpartition(" ")
        ends = [Other(question.source, self._pods.get(question.source)), Other(address, self._pods.get(address))]
        return bool(self._policies.objection(ends[0], ends[1], question.protocol, int(port)))


def pods_of(scene: Scene) -> dict[str, Pod]:
    """One pod with an address of its own for each node that has one and whose facts are known."""
    found: dict[str, Pod] = {}
    for pod in scene.objects.pods:
        if not pod.spec.host_network and not pod.finished and addresses_of(pod) and pod.spec.node_name in scene.facts:
            found.setdefault(pod.spec.node_name, pod)
    return found


def between_pods(scene: Scene, traveller: Traveller) -> Iterator[Finding]:
    """From a pod of each node to one of each other."""
    pods = pods_of(scene)
    names = sorted(pods)
    for place, name in enumerate(names):
        others = names if len(names) <= ALL_PAIRS else [names[(place + step) % len(names)] for step in range(1, SOME + 1)]
        for other in others:
            if other == name:
                continue
            for source, target in _same_family(addresses_of(pods[name]), addresses_of(pods[other])):
                question = Question(source, target, TCP, PORT)
                for way in traveller.untold(question, traveller.ways(question)):
                    yield _finding(way, f"packets from pods of {name} to pods of {other}")


def _same_family(sources: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((source, target) for source in sources for target in targets if (":" in source) == (":" in target))


def to_services(scene: Scene, traveller: Traveller) -> Iterator[Finding]:
    """From a pod of each node to each port of each Service that has endpoints: to one of them, whichever chance takes."""
    pods = pods_of(scene)
    ports = [(place, key, ends) for place in traveller.directory.places if place.kind == "service"
             for key, ends in place.ports.items() if ends]
    step = max(1, len(ports) * len(pods) // JOURNEYS_MOST)
    for name, pod in sorted(pods.items()):
        for place, (protocol, port), ends in ports[::step]:
            for family in Family:
                source, target = _first(addresses_of(pod), family), _first(place.addresses, family)
                if source and target:
                    yield from _to_service(traveller, name, Question(source, target, protocol, port), place, ends)


def _to_service(traveller: Traveller, node: str, question: Question, place: Place, ends: Sequence[End]) -> Iterator[Finding]:
    where, ways = f"{place}:{question.port}", traveller.ways(question)
    for way in traveller.untold(question, [each for each in ways if not _untranslated(each)]):
        yield _finding(way, f"packets from pods of {node} to {where}")
    if any(_untranslated(way) for way in ways):
        yield Finding(node, f"no rule translates {where}", "its address is routed like any other: does kube-proxy run?",
                      "systemctl restart kube-proxy")
    known = {f"{end.address} {end.port}" for end in ends}
    for end in sorted({way.end for way in ways if way.end} - known):
        yield Finding(node, f"{where} leads to somebody who is no endpoint of it", end.replace(" ", ":"),
                      "systemctl restart kube-proxy")


def _untranslated(way: Journey) -> bool:
    translated = any("to " in step.what and step.stage in ("prerouting", "output", "ipvs") for step in way.there)
    return way.what not in REFUSED and not translated


def _first(addresses: Sequence[str], family: Family) -> str:
    return next((each for each in addresses if Family.of(parse_address(each)) is family), "")


def _finding(way: Journey, what: str) -> Finding:
    word = {"dropped": "dropped", "rejected": "refused"}.get(way.what, "lost")
    return Finding(way.where, f"{what} are {word}", way.why, way.mend)


def journeys(scene: Scene) -> Iterator[Finding]:
    """Both."""
    traveller = Traveller(scene)
    yield from between_pods(scene, traveller)
    yield from to_services(scene, traveller)


SCENE_CHECKS = (journeys,)
