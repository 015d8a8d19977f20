"""`netscope explain`: one packet's possible ways, worked out from a scene, and the same in words and as a drawing.

Pure. Must not know: where the scene comes from. Read next: `netscope/walk/journey.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from netscope.blame import RESTART
from netscope.directory import Directory, Place, split_port
from netscope.drawing import MARGIN, WIDTH, wrapped
from netscope.policies import Other, Policies
from netscope.scene import Objects, Scene, addresses_of
from netscope.suspects import suspect
from netscope.walk.beyond import unread
from netscope.walk.journey import Journey, Question, World
from netscope.walk.packet import Step
from netscope.walk.values import PROTOCOLS
from nodecore.errors import UserError
from nodecore.kube.workload import Pod
from nodecore.net import Family, parse_address

GOOD = ("delivered", "outside")
LASTING = ("", "ESTABLISHED")  # states of connections that packets may still come of


class Explanation(msgspec.Struct, frozen=True):
    """The packet, each way that chance may choose, and what the API's policies say of it."""

    source: str
    target: str
    protocol: str
    port: int
    ways: tuple[Journey, ...]
    policy: str = ""
    notes: tuple[str, ...] = ()

    @property
    def arrives(self) -> bool:
        """On every way; what policies say is enforced by rules, and those were walked, or by nobody."""
        return all(way.what in GOOD for way in self.ways)


def explain(scene: Scene, sources: Sequence[str], target: str, protocol: str) -> list[Explanation]:
    """Of one source, or of every node."""
    directory = scene.directory
    name, port = split_port(target)
    place = directory.find(name)
    number, port_number = PROTOCOLS[protocol], port_of(port, place, PROTOCOLS[protocol])
    world = World(scene.facts, directory)
    places = [directory.find(each) for each in sources] or [each for each in directory.places if each.kind == "node"]
    family = _family(name, place, places)
    return [_one(scene, world, each.address(family), place.address(family), (number, protocol), port_number) for each in places]


def port_of(text: str, place: Place, protocol: int) -> int:
    """The port asked for, or the only one of a Service."""
    if text:
        return int(text)
    numbers = {port for kind, port in place.ports if kind == protocol}
    if len(numbers) == 1:
        return numbers.pop()
    raise UserError(f"{place}: which port? {', '.join(map(str, sorted(numbers))) or 'none is known'}")


def _family(name: str, place: Place, sources: Sequence[Place]) -> Family:
    """Of the address asked for; else IPv4 where both have one."""
    for each in (name, *(source.name for source in sources if source.kind == "address")):
        try:
            return Family.of(parse_address(each))
        except UserError:
            continue
    return next((family for family in Family if all(any(Family.of(parse_address(address)) is family for address in one.addresses)
                                                    for one in (place, *sources))), Family.IPV4)


def _one(scene: Scene, world: World, source: str, target: str, protocol: tuple[int, str], port: int) -> Explanation:
    number, name = protocol
    ways = [_with_culprit(scene, way, source) for way in world.ways(Question(source, target, number, port))]
    return Explanation(
        world.name_of(parse_address(source)), world.name_of(parse_address(target)), name, port, tuple(ways),
        _policy(scene.objects, source, ways, number),
        (*_notes(scene, scene.directory, target, number, port), *_unread(scene, ways, source)))


def _unread(scene: Scene, ways: Sequence[Journey], source: str) -> Iterator[str]:
    """What stands on its way and was not looked at."""
    links: dict[str, dict[str, None]] = {}
    for way in ways:
        for node, link in way.passed:
            links.setdefault(node, {})[link] = None
    addresses = dict.fromkeys((source, *(way.target for way in ways if way.target)))
    for node, passed in links.items():
        yield from (f"not looked at on {node}: {each}" for each in unread(scene.facts[node], passed, addresses))


def _with_culprit(scene: Scene, way: Journey, source: str) -> Journey:
    """Of a way that ends on a node: what both ends of its tunnel show, and the whole command that mends it."""
    directory = scene.directory
    if way.what == "outside" and directory.name_of(way.target).startswith("service/"):
        return msgspec.structs.replace(way, what="lost", mend=RESTART, why=(
            f"no rule translates {way.target}, the address of {directory.name_of(way.target)}: does kube-proxy run?"))
    if way.what != "lost":
        return way
    ends = {directory.node_of(address) for address in (source, way.target) if address}
    finding = suspect(scene.facts, way.where, ends)
    if finding is None:
        return way
    on = "" if finding.node == way.where else f"{finding.node}: "
    return msgspec.structs.replace(way, why=f"{way.why}; {on}{finding.what} ({finding.evidence})", mend=finding.fix or way.mend,
                                   on=finding.node)


def _policy(objects: Objects, source: str, ways: Sequence[Journey], protocol: int) -> str:
    """Of the API's policies, for whoever would get it."""
    policies = Policies(objects.policies, {each.metadata.name: each.metadata.labels or {} for each in objects.namespaces})
    pods = {address: pod for pod in objects.pods if not pod.spec.host_network for address in addresses_of(pod)}
    for way in ways:
        if way.end:
            address, _, port = way.end.rpartition(" ")
            words = policies.objection(_other(source, pods), _other(address, pods), protocol, int(port))
            if words:
                return words
    return ""


def _other(address: str, pods: dict[str, Pod]) -> Other:
    return Other(address, pods.get(address))


def _notes(scene: Scene, directory: Directory, target: str, protocol: int, port: int) -> Iterator[str]:
    """What the Service's objects say beside the rules."""
    place = next((each for each in directory.places if each.kind == "service" and target in each.addresses), None)
    if place is None:
        return
    if (protocol, port) not in place.ports:
        yield place.without(protocol, port)
    elif not place.ports[protocol, port]:
        yield f"{place} has no endpoints on port {port}: no ready pod fits its selector"
    else:
        yield from _tracked(scene, place, (target, port), protocol)
    for name, why in scene.missing.items():
        yield f"nothing is known of {name}: {why}"


def _tracked(scene: Scene, place: Place, asked: tuple[str, int], protocol: int) -> Iterator[str]:
    """Connections that go on to whoever stood behind the Service when they began."""
    ends = {(end.address, end.port) for end in place.ports[protocol, asked[1]]}
    for node, connections in scene.connections.items():
        used = (each.answered[:2] for each in connections
                if each.protocol == protocol and each.asked[2:] == asked and each.state in LASTING)
        for host, port in dict.fromkeys(end for end in used if end not in ends):
            yield (f"{node} still sends connections to {host}:{port}, which is no endpoint of {place} now: "
                   f"conntrack -D -d {asked[0]} --reply-src {host}")


def draw(told: Explanation) -> str:
    """The packet, the first way step by step, the others in a line each."""
    lines = [f"{told.protocol} from {told.source} to {told.target}:{told.port}"]
    groups: dict[tuple[str, str, str], list[Journey]] = {}
    for way in told.ways:
        groups.setdefault((way.reached, way.what, way.why), []).append(way)
    bad = sorted(groups.values(), key=lambda ways: ways[0].what in GOOD)
    first = bad[0][0] if bad else None
    if first:
        lines += [*_steps("there", first.there), *_steps("back", first.back), ending(first)]
    lines += [f"or, by chance: {ending(ways[0])}" for ways in bad[1:]]
    if told.policy:
        passes = "; no rule of these nodes enforces it, so the packet passes" if told.arrives else ""
        lines.append(f"policy: {told.policy}{passes}")
    lines += [f"note: {note}" for note in told.notes]
    return "\n".join(line if line.startswith(("      ", "  ")) else "\n".join(wrapped(line, indent="  ", width=WIDTH))
                     for text in lines for line in text.splitlines())


def _steps(title: str, steps: Sequence[Step]) -> Iterator[str]:
    for place, (node, some) in enumerate(groupby(steps, key=lambda step: step.node)):
        yield f"{title if place == 0 else '':<6}┌ {node}"
        for step in some:
            for indent, text in ((f"{step.stage:<12} ", step.what), (" " * 15, step.why)):
                yield from (f"{MARGIN}{line}" for line in wrapped(text, initial=indent, indent=" " * 17))
        yield "      └"


def ending(way: Journey) -> str:
    """How it ends, in a line; and what would mend it."""
    who = f" to {way.reached}" if way.reached else ""
    match way.what:
        case "delivered":
            return f"delivered{who}, and answered"
        case "outside":
            return f"leaves the cluster from {way.where}"
    mend = f"\nto mend it, on {way.on or way.where}:\n  {way.mend}" if way.mend else ""
    return f"{way.what.upper()}{who} on {way.where}: {way.why}{mend}"
