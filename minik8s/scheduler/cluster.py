"""What the scheduler knows: each node with what its pods ask of it, bindings not yet seen included.

Pure state, fed by the agent. Read next: `minik8s/scheduler/fit.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from nodecore.kube.labels import contains
from nodecore.kube.objects import View
from nodecore.kube.quantity import parse_milli, parse_whole
from nodecore.kube.workload import Container, Meta, Node, Pod

Amounts = dict[str, int]
DEFAULT_CPU, DEFAULT_MEMORY = 100, 200 * 1024 * 1024


class SelectorSpec(View, frozen=True):
    """core/v1 ServiceSpec: whom it selects."""

    selector: dict[str, str] | None = None


class Selecting(View, frozen=True):
    """core/v1 Service: whom it selects."""

    metadata: Meta = Meta()
    spec: SelectorSpec = SelectorSpec()


class HostPort(NamedTuple):
    """A port of the node itself."""

    ip: str
    protocol: str
    port: int

    def clashes(self, other: HostPort) -> bool:
        """Whether both cannot be had on one node."""
        anywhere = {"", "0.0.0.0", "::"}
        same_ip = self.ip == other.ip or self.ip in anywhere or other.ip in anywhere
        return same_ip and (self.protocol, self.port) == (other.protocol, other.port)


def amounts(resources: Mapping[str, str | int | float] | None) -> Amounts:
    """Quantities as whole numbers: cpu in thousandths, anything else in units."""
    return {name: parse_milli(value) if name == "cpu" else parse_whole(value) for name, value in (resources or {}).items()}


def _asked(container: Container) -> Amounts:
    found = container.resources
    return {**amounts(found.limits), **amounts(found.requests)} if found else {}


def _add(total: Amounts, more: Mapping[str, int], sign: int = 1) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + sign * value


def requests(pod: Pod) -> Amounts:
    """What a pod needs of its node at its most demanding moment: containers and sidecars, or an init container before them."""
    total: Amounts = {}
    for container in pod.spec.containers or ():
        _add(total, _asked(container))
    peak: Amounts = {}
    sidecars: Amounts = {}
    for container in pod.spec.init_containers or ():
        asked = _asked(container)
        if container.restart_policy == "Always":
            _add(sidecars, asked)
            asked = {}
        _add(asked, sidecars)
        peak = {name: max(peak.get(name, 0), asked.get(name, 0)) for name in peak.keys() | asked.keys()}
    _add(total, sidecars)
    total = {name: max(total.get(name, 0), peak.get(name, 0)) for name in total.keys() | peak.keys()}
    _add(total, amounts(pod.spec.overhead))
    return total


def host_ports(pod: Pod) -> tuple[HostPort, ...]:
    """The ports of the node it wants."""
    return tuple(HostPort(port.host_ip, port.protocol, port.host_port or port.container_port)
                 for container in pod.spec.containers or () for port in container.ports or ()
                 if port.host_port or (pod.spec.host_network and port.container_port))


@dataclass(slots=True)
class Load:
    """What one pod puts on its node, worked out once."""

    pod: Pod
    asked: Amounts
    ports: tuple[HostPort, ...]
    group: str

    @classmethod
    def of(cls, pod: Pod) -> Load:
        """Weigh a pod; raises `UserError` for an amount that is none."""
        controller = pod.metadata.controller
        return cls(pod, requests(pod), host_ports(pod), controller.uid if controller else "")

    @property
    def weight(self) -> Amounts:
        """For comparing nodes: what asks for nothing still takes something."""
        return {"cpu": self.asked.get("cpu") or DEFAULT_CPU, "memory": self.asked.get("memory") or DEFAULT_MEMORY}


@dataclass(slots=True)
class Place:
    """One node and the loads on it."""

    node: Node
    allocatable: Amounts
    loads: dict[str, Load] = field(default_factory=dict)
    used: Amounts = field(default_factory=dict)
    weighed: Amounts = field(default_factory=dict)

    def put(self, load: Load) -> None:
        """Take a pod's load on."""
        self.loads[load.pod.metadata.uid] = load
        _add(self.used, load.asked)
        _add(self.weighed, load.weight)

    def take(self, uid: str) -> None:
        """Drop a pod's load."""
        load = self.loads.pop(uid, None)
        if load:
            _add(self.used, load.asked, -1)
            _add(self.weighed, load.weight, -1)

    def copy(self) -> Place:
        """The same, to try things on."""
        return Place(self.node, self.allocatable, dict(self.loads), dict(self.used), dict(self.weighed))


@dataclass
class Cluster:
    """All places, and which pod is where."""

    places: dict[str, Place] = field(default_factory=dict)
    services: dict[str, Selecting] = field(default_factory=dict)
    homeless: dict[str, dict[str, Load]] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)

    def set_node(self, node: Node) -> None:
        """A node is there, or looks different."""
        name = node.metadata.name
        old = self.places.get(name)
        place = Place(node, amounts(node.status.allocatable or node.status.capacity))
        for load in (old.loads if old else self.homeless.pop(name, {})).values():
            place.put(load)
        self.places[name] = place

    def remove_node(self, name: str) -> None:
        """A node is gone; its pods may outlive it in the API."""
        place = self.places.pop(name, None)
        if place and place.loads:
            self.homeless[name] = place.loads

    def put(self, load: Load, node: str) -> None:
        """A pod is, or will be, on this node."""
        uid = load.pod.metadata.uid
        self.remove(uid)
        self.where[uid] = node
        if node in self.places:
            self.places[node].put(load)
        else:
            self.homeless.setdefault(node, {})[uid] = load

    def remove(self, uid: str) -> None:
        """A pod is gone or finished."""
        node = self.where.pop(uid, None)
        if node in self.places:
            self.places[node].take(uid)
        elif node in self.homeless:
            self.homeless[node].pop(uid, None)

    def fork(self) -> Cluster:
        """The same, to try things on."""
        return Cluster({name: place.copy() for name, place in self.places.items()}, self.services, {}, dict(self.where))

    def services_of(self, pod: Pod) -> list[Mapping[str, str]]:
        """The selectors of the Services that choose this pod."""
        return [service.spec.selector for service in self.services.values()
                if service.spec.selector and service.metadata.namespace == pod.metadata.namespace
                and contains(pod.metadata.labels, service.spec.selector)]

    def __iter__(self) -> Iterator[Place]:
        return iter(self.places.values())


def in_order(pods: Iterable[Pod]) -> list[Pod]:
    """Whom to serve first: priority, then age."""
    return sorted(pods, key=lambda pod: (-(pod.spec.priority or 0), pod.metadata.creation_timestamp or "", pod.metadata.key))
