"""Can this node take this pod? And if none can: why not, in the words kubectl users know.

Pure. Read next: `minik8s/scheduler/score.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from nodecore.kube import placement
from nodecore.kube.workload import NodeTaint, PodSpec

from .cluster import Load, Place


def taints_of(place: Place) -> list[NodeTaint]:
    """The node's taints; cordoned or not ready counts as one even before anybody has written it."""
    node = place.node
    taints = list(node.spec.taints or ())
    have = {taint.key for taint in taints}
    if not node.ready and not have & {placement.NOT_READY, placement.UNREACHABLE}:
        taints.append(NodeTaint(placement.NOT_READY, placement.NO_SCHEDULE))
    return taints


def unsupported(spec: PodSpec) -> str:
    """The binding rule in the pod that this scheduler does not know, or nothing; what is only preferred may be passed over."""
    affinity = spec.affinity
    rules = {"podAffinity": affinity.pod_affinity, "podAntiAffinity": affinity.pod_anti_affinity} if affinity else {}
    for name, rule in rules.items():
        if rule and rule.required_during_scheduling_ignored_during_execution:
            return f"required {name}"
    if any(rule.when_unsatisfiable == "DoNotSchedule" for rule in spec.topology_spread_constraints or ()):
        return "topologySpreadConstraints with DoNotSchedule"
    return ""


def obstacles(load: Load, place: Place) -> list[str]:
    """Why the node cannot take the pod; empty if it can. The first kind of reason found speaks alone."""
    spec, node = load.pod.spec, place.node
    if unknown := unsupported(spec):
        return [f"node(s) not considered: {unknown} is not supported by this scheduler"]
    if spec.node_name and spec.node_name != node.metadata.name:
        return ["node(s) didn't match the requested node name"]
    if node.spec.unschedulable:
        taint = NodeTaint(placement.UNSCHEDULABLE, placement.NO_SCHEDULE)
        if placement.untolerated(spec, [taint], (placement.NO_SCHEDULE,)):
            return ["node(s) were unschedulable"]
    found = placement.untolerated(spec, taints_of(place), (placement.NO_SCHEDULE, placement.NO_EXECUTE))
    if found:
        return [f"node(s) had untolerated taint {{{found.key}: {found.value}}}"]
    if not placement.selects(spec, node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    taken = [port for other in place.loads.values() for port in other.ports] if load.ports else []
    if any(mine.clashes(other) for mine in load.ports for other in taken):
        return ["node(s) didn't have free ports for the requested pod ports"]
    return shortages(load, place)


def shortages(load: Load, place: Place) -> list[str]:
    """Which of the resources asked for the node has too little of."""
    short = []
    if len(place.loads) + 1 > place.allocatable.get("pods", 110):
        short.append("Too many pods")
    for name, asked in sorted(load.asked.items()):
        unlimited = name == "ephemeral-storage" and name not in place.allocatable
        if asked and not unlimited and place.used.get(name, 0) + asked > place.allocatable.get(name, 0):
            short.append(f"Insufficient {name}")
    return short


def explain(reasons: Iterable[Sequence[str]], nodes: int) -> str:
    """The message of FailedScheduling."""
    if not nodes:
        return "no nodes available to schedule pods"
    counted = Counter(reason for each in reasons for reason in each)
    return f"0/{nodes} nodes are available: " + ", ".join(f"{counted[reason]} {reason}" for reason in sorted(counted)) + "."
