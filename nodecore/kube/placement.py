"""May this pod be on that node? Node selectors, required node affinity, taints and tolerations.

Pure; shared by the scheduler and the DaemonSet controller, which must agree. Rules: Kubernetes' documentation, "Assigning
Pods to Nodes" and "Taints and Tolerations". Read next: `minik8s/scheduler/fit.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nodecore.kube.labels import LabelRequirement, contains
from nodecore.kube.workload import Node, NodeTaint, NodeTerm, PodSpec, Requirement, Toleration

NO_SCHEDULE, NO_EXECUTE, PREFER_NO_SCHEDULE = "NoSchedule", "NoExecute", "PreferNoSchedule"
NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"


def tolerates(toleration: Toleration, taint: NodeTaint) -> bool:
    """Whether one toleration covers one taint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def untolerated(spec: PodSpec, taints: Iterable[NodeTaint], effects: Iterable[str]) -> NodeTaint | None:
    """The first taint with one of these effects that the pod does not tolerate."""
    wanted = tuple(effects)
    for taint in taints:
        if taint.effect in wanted and not any(tolerates(each, taint) for each in spec.tolerations or ()):
            return taint
    return None


def _requirement(part: Requirement, values: Mapping[str, str]) -> bool:
    if part.operator not in ("Gt", "Lt"):
        return LabelRequirement(part.key, part.operator, part.values).matches(values)
    try:
        have, bound = int(values[part.key]), int((part.values or [""])[0])
    except (KeyError, ValueError):
        return False
    return have > bound if part.operator == "Gt" else have < bound


def term_matches(term: NodeTerm, node: Node) -> bool:
    """Whether a node satisfies one term; an empty term matches nothing."""
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": node.metadata.name}
    return all(_requirement(part, node.metadata.labels or {}) for part in term.match_expressions or ()) and all(
        _requirement(part, fields) for part in term.match_fields or ())


def selects(spec: PodSpec, node: Node) -> bool:
    """Whether the pod's node selector and required affinity allow the node."""
    if not contains(node.metadata.labels, spec.node_selector):
        return False
    affinity = spec.affinity.node_affinity if spec.affinity else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    return required is None or any(term_matches(term, node) for term in required.node_selector_terms or ())


def pinned_to(spec: PodSpec) -> str:
    """The one node named by the pod, or by a `metadata.name` field of its affinity as DaemonSet pods carry it."""
    if spec.node_name:
        return spec.node_name
    affinity = spec.affinity.node_affinity if spec.affinity else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    for term in (required.node_selector_terms if required else None) or ():
        for part in term.match_fields or ():
            if part.key == "metadata.name" and part.operator == "In" and len(part.values or ()) == 1:
                return (part.values or [""])[0]
    return ""
