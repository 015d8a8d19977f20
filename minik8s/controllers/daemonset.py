"""DaemonSets: one pod on every node that may have it.

Each pod is bound to its node by an affinity to the node's name, so that the scheduler still has the last word. A changed
template replaces pods within maxUnavailable. Read next: `minik8s/controllers/pods.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from nodecore.kube import placement
from nodecore.kube.resource import DAEMON_SETS, PODS
from nodecore.kube.workload import DaemonSet, Node, NodeTaint, Pod, PodSpec, Toleration

from . import rollout
from .daemon_history import HASH, ControllerRevision, plan_history
from .ops import Create, Delete, Op, Patch, Plan, Raw
from .pods import claim, created, deleted, from_template, new_names, readiness
from .world import Collection

PRESSURES = ("disk-pressure", "memory-pressure", "pid-pressure", "unschedulable")


def tolerations(*, host_network: bool) -> list[Toleration]:
    """What a daemon bears though its author does not say so: it stays where other pods must leave."""
    added = [Toleration(placement.NOT_READY, "Exists", "", placement.NO_EXECUTE),
             Toleration(placement.UNREACHABLE, "Exists", "", placement.NO_EXECUTE)]
    names = PRESSURES + (("network-unavailable",) if host_network else ())
    return added + [Toleration(f"node.kubernetes.io/{name}", "Exists", "", placement.NO_SCHEDULE) for name in names]


def _raw_toleration(toleration: Toleration) -> Raw:
    return {"key": toleration.key, "operator": "Exists", "effect": toleration.effect}


def daemon_pod(daemons: DaemonSet, node: str, name: str, word: str) -> Raw:
    """The pod of one node."""
    body = from_template(DAEMON_SETS, daemons.metadata, daemons.spec.template or {}, name)
    body["metadata"].setdefault("labels", {})
    body["metadata"]["labels"] = {**body["metadata"]["labels"], HASH: word}
    spec = body["spec"]
    affinity = copy.deepcopy(spec.get("affinity") or {})
    node_affinity = affinity.setdefault("nodeAffinity", {})
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    here = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    terms = [{**term, "matchFields": here} for term in required.get("nodeSelectorTerms") or [{}]]
    node_affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    spec["affinity"] = affinity
    have = list(spec.get("tolerations") or [])
    added = [_raw_toleration(each) for each in tolerations(host_network=bool(spec.get("hostNetwork")))]
    spec["tolerations"] = have + [each for each in added if each not in have]
    return body


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a node should get a daemon, and whether one that is there may stay."""

    run: bool
    stay: bool


def fit(spec: PodSpec, node: Node) -> Fit:
    """Judge one node for the pods of a template."""
    if (spec.node_name and spec.node_name != node.metadata.name) or not placement.selects(spec, node):
        return Fit(run=False, stay=False)
    taints = list(node.spec.taints or ())
    if node.spec.unschedulable:
        taints.append(NodeTaint(placement.UNSCHEDULABLE, placement.NO_SCHEDULE))
    stay = placement.untolerated(spec, taints, (placement.NO_EXECUTE,)) is None
    run = stay and placement.untolerated(spec, taints, (placement.NO_SCHEDULE,)) is None
    return Fit(run, stay)


def _template_spec(daemons: DaemonSet) -> PodSpec:
    raw = (daemons.spec.template or {}).get("spec") or {}
    spec = msgspec.convert(raw, PodSpec)
    return msgspec.structs.replace(
        spec, tolerations=[*(spec.tolerations or ()), *tolerations(host_network=spec.host_network)])


def plan_daemons(daemons: DaemonSet, pods: Iterable[Pod], nodes: Iterable[Node], now: float, word: str) -> Plan:
    """The writes for one DaemonSet; `pods` are those of its namespace, `word` stands for its template."""
    meta = daemons.metadata
    everyone, all_nodes = list(pods), sorted(nodes, key=lambda node: node.metadata.name)
    claimed = claim(DAEMON_SETS, meta, daemons.spec.selector, everyone)
    if meta.deletion_timestamp or claimed.ops:
        return Plan(claimed.ops)
    spec = _template_spec(daemons)
    fits = {node.metadata.name: fit(spec, node) for node in all_nodes}
    here: dict[str, list[Pod]] = {name: [] for name in fits}
    for pod in claimed.owned:
        here.setdefault(placement.pinned_to(pod.spec), []).append(pod)
    ops: list[Op] = []
    missing = _place(daemons, fits, here, ops)
    names = new_names(meta, len(missing), {pod.metadata.name for pod in everyone}, now)
    ops += [Create(PODS, daemon_pod(daemons, node, name, word), created(DAEMON_SETS, meta, name))
            for node, name in zip(missing, names, strict=True)]
    ops += _update(daemons, fits, here, word, now)
    status = _status(daemons, fits, here, word, now)
    if any((daemons.status or {}).get(key, 0) != value for key, value in status.items()):
        ops.append(Patch(DAEMON_SETS, meta, {"status": status}, f"status {status['numberReady']} ready", subresource="status"))
    active = [pod for pods in here.values() for pod in pods if pod.active]
    return Plan(tuple(ops), readiness(active, daemons.spec.min_ready_seconds, now).next)


def _place(daemons: DaemonSet, fits: dict[str, Fit], here: dict[str, list[Pod]], ops: list[Op]) -> list[str]:
    """Delete pods that are in the wrong place, one too many or failed; return the nodes that lack one."""
    missing: list[str] = []
    for node, found in sorted(here.items()):
        verdict = fits.get(node, Fit(run=False, stay=False))
        present = [pod for pod in found if not pod.metadata.deletion_timestamp]
        failed = [pod for pod in present if pod.finished]
        good = sorted((pod for pod in present if not pod.finished),
                      key=lambda pod: (not pod.ready, pod.metadata.creation_timestamp or "", pod.metadata.name))
        extra = good[1:] if verdict.stay else good
        ops += [Delete(PODS, pod.metadata, why, tell=deleted(DAEMON_SETS, daemons.metadata, pod.metadata.name))
                for why, group in (("failed", failed), ("not wanted there", extra)) for pod in group]
        if verdict.run and not found:
            missing.append(node)
    return missing


def _update(daemons: DaemonSet, fits: dict[str, Fit], here: dict[str, list[Pod]], word: str, now: float) -> list[Op]:
    """Let pods of an older template go, as many as may be unavailable at once; those out of service first."""
    if daemons.spec.update_strategy.type != "RollingUpdate":
        return []
    wanted = [node for node, verdict in fits.items() if verdict.run]
    rolling = daemons.spec.update_strategy.rolling_update
    share = 1 if rolling is None or rolling.max_unavailable is None else rolling.max_unavailable
    room = max(1, rollout.resolve(share, len(wanted), up=True))
    old: list[Pod] = []
    for node in wanted:
        active = [pod for pod in here[node] if pod.active]
        serving = [pod for pod in active if readiness([pod], daemons.spec.min_ready_seconds, now).available]
        stale = [pod for pod in active if (pod.metadata.labels or {}).get(HASH) != word]
        if not serving:
            room -= 0 if stale else 1
            old = stale + old if stale else old
        else:
            old += stale
    idle = [pod for pod in old if not pod.ready]
    busy = [pod for pod in old if pod.ready]
    victims = idle + busy[:max(0, room - len(idle))]
    return [Delete(PODS, pod.metadata, "of an older template", tell=deleted(DAEMON_SETS, daemons.metadata, pod.metadata.name))
            for pod in victims]


def _status(daemons: DaemonSet, fits: dict[str, Fit], here: dict[str, list[Pod]], word: str, now: float) -> dict[str, int]:
    wanted = [node for node, verdict in fits.items() if verdict.run]
    running = {node: [pod for pod in here.get(node, []) if pod.active] for node in fits}
    firsts = [running[node][0] for node in wanted if running[node]]
    found = readiness(firsts, daemons.spec.min_ready_seconds, now)
    return {
        "desiredNumberScheduled": len(wanted), "currentNumberScheduled": len(firsts),
        "numberMisscheduled": sum(bool(running[node]) for node, verdict in fits.items() if not verdict.run),
        "numberReady": found.ready, "numberAvailable": found.available, "numberUnavailable": len(wanted) - found.available,
        "updatedNumberScheduled": sum((pod.metadata.labels or {}).get(HASH) == word for pod in firsts),
        "observedGeneration": daemons.metadata.generation,
    }


class DaemonSets:
    """The controller around `plan_daemons`."""

    name = "daemonset"

    def __init__(self, daemons: Collection[DaemonSet], pods: Collection[Pod], nodes: Collection[Node],
                 revisions: Collection[ControllerRevision]) -> None:
        self.daemons, self.pods, self.nodes, self.revisions = daemons, pods, nodes, revisions

    def listen(self, mark: Callable[[str], None]) -> None:
        """Marked by its own change, its pods' and revisions', and by nodes that look different to the rules of placement."""
        def of_set(old: DaemonSet | None, new: DaemonSet | None) -> None:
            if new is not None:
                mark(new.metadata.key)

        def of_child(old: Pod | ControllerRevision | None, new: Pod | ControllerRevision | None) -> None:
            for child in (old, new):
                owner = child.metadata.controller if child else None
                if child is not None and owner is not None and owner.kind == "DaemonSet":
                    mark(f"{child.metadata.namespace}/{owner.name}")

        def of_node(old: Node | None, new: Node | None) -> None:
            if old is None or new is None or (old.spec, old.metadata.labels) != (new.spec, new.metadata.labels):
                for each in self.daemons:
                    mark(each.metadata.key)

        self.daemons.listeners.append(of_set)
        self.pods.listeners.append(of_child)
        self.revisions.listeners.append(of_child)
        self.nodes.listeners.append(of_node)

    def plan(self, key: str, now: float) -> Plan:
        """The DaemonSet's writes, none once it is gone."""
        found = self.daemons.get(key)
        if found is None:
            return Plan()
        namespace, uid = found.metadata.namespace, found.metadata.uid
        pods = self.pods.within(namespace)
        used = {(pod.metadata.labels or {}).get(HASH, "") for pod in pods
                if pod.metadata.controller and pod.metadata.controller.uid == uid}
        history = plan_history(found, self.revisions.within(namespace), used)
        plan = plan_daemons(found, pods, self.nodes, now, history.word)
        return Plan((*history.ops, *plan.ops), plan.again)
