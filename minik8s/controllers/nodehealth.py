"""Nodes that fall silent: Ready turns Unknown, taints keep pods away, pods are marked, and in the end evicted.

Silence is measured here, from when a Lease or status was last seen to change, so that clocks need not agree and may be set.
While no node at all is ready nobody is evicted: then it is rather us who are cut off. Read next: `nodecore/kube/placement.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from nodecore.kube import placement
from nodecore.kube.client import STRATEGIC
from nodecore.kube.objects import View
from nodecore.kube.resource import NODES, PODS
from nodecore.kube.workload import Condition, Meta, Node, NodeTaint, Pod, seconds, stamp

from .ops import Delete, Op, Patch, Plan, Raw, Told, involved, soonest
from .world import Collection

LEASE_NAMESPACE = "kube-node-lease"
REPORTED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
OURS = {placement.NOT_READY, placement.UNREACHABLE, placement.UNSCHEDULABLE, *(
    f"node.kubernetes.io/{each}" for each in ("memory-pressure", "disk-pressure", "pid-pressure", "network-unavailable"))}
PRESSURES = (("MemoryPressure", "memory-pressure"), ("DiskPressure", "disk-pressure"), ("PIDPressure", "pid-pressure"),
             ("NetworkUnavailable", "network-unavailable"))
PATIENCE = 300.0


class LeaseSpec(View, frozen=True):
    """coordination/v1 LeaseSpec."""

    holder_identity: str | None = None
    renew_time: str | None = None


class Lease(View, frozen=True):
    """coordination/v1 Lease."""

    metadata: Meta = Meta()
    spec: LeaseSpec = LeaseSpec()


def plan_node(node: Node, pods: Iterable[Pod], beat: float, now: float, *, grace: float, evict: bool) -> Plan:
    """The writes for one node last heard of at `beat`; `pods` are those on it."""
    silent = now - beat > grace
    ops: list[Op] = []
    conditions = list(node.status.conditions or ())
    if silent and (node.condition("Ready") or Condition("Ready")).status != "Unknown":
        ops.append(_unknown(node, now))
        ops.append(Told(involved(NODES, node.metadata), "NodeNotReady", f"Node {node.metadata.name} status is now: NodeNotReady"))
        conditions = [Condition("Ready", "Unknown")] + [each for each in conditions if each.type not in REPORTED]
    taints = wanted_taints(node, conditions, now)
    if taints != list(node.spec.taints or ()):
        raw = [_raw_taint(taint) for taint in taints]
        ops.append(Patch(NODES, node.metadata, {"spec": {"taints": raw or None}}, f"{len(raw)} taints",
                         version="" if ops else node.metadata.resource_version))
    here = list(pods)
    if silent:
        ops += [_mark(pod, now) for pod in here if pod.ready and not pod.finished]
    evictions = [(pod, at) for pod in here if not pod.metadata.deletion_timestamp and (at := eviction(pod, taints)) is not None]
    if evict:
        ops += [Delete(PODS, pod.metadata, "evicted by a taint of its node", tell=Told(
            involved(PODS, pod.metadata), "TaintManagerEviction", f"Marking for deletion Pod {pod.metadata.key}"))
            for pod, at in evictions if at <= now]
    waits = [at - now if at > now else grace for _, at in evictions]
    return Plan(tuple(ops), soonest(None if silent else beat + grace - now + 0.05, *waits))


def _unknown(node: Node, now: float) -> Patch:
    at = stamp(now)
    conditions = [{"type": kind, "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": at,
                   "message": "Kubelet stopped posting node status."} for kind in REPORTED]
    return Patch(NODES, node.metadata, {"status": {"conditions": conditions}}, "silent", subresource="status", kind=STRATEGIC)


def _mark(pod: Pod, now: float) -> Patch:
    conditions = [{"type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": stamp(now)}]
    return Patch(PODS, pod.metadata, {"status": {"conditions": conditions}}, "its node is silent", subresource="status",
                 kind=STRATEGIC)


def wanted_taints(node: Node, conditions: Iterable[Condition], now: float) -> list[NodeTaint]:
    """The node's taints: others' as they are, ours by its conditions, with the time of those that stay."""
    status = {each.type: each.status for each in conditions}
    ready = status.get("Ready", "Unknown" if status else "False")
    wanted: list[tuple[str, str]] = []
    if ready != "True":
        key = placement.NOT_READY if ready == "False" else placement.UNREACHABLE
        wanted += [(key, placement.NO_SCHEDULE), (key, placement.NO_EXECUTE)]
    if node.spec.unschedulable:
        wanted.append((placement.UNSCHEDULABLE, placement.NO_SCHEDULE))
    wanted += [(f"node.kubernetes.io/{key}", placement.NO_SCHEDULE) for kind, key in PRESSURES if status.get(kind) == "True"]
    kept = [taint for taint in node.spec.taints or () if taint.key not in OURS or (taint.key, taint.effect) in wanted]
    have = {(taint.key, taint.effect) for taint in kept}
    return kept + [NodeTaint(key, effect, "", stamp(now)) for key, effect in wanted if (key, effect) not in have]


def _raw_taint(taint: NodeTaint) -> Raw:
    raw = {"key": taint.key, "effect": taint.effect, "value": taint.value, "timeAdded": taint.time_added}
    return {key: value for key, value in raw.items() if value}


def eviction(pod: Pod, taints: Iterable[NodeTaint]) -> float | None:
    """When the pod must leave because of the node's taints, or None."""
    times: list[float] = []
    for taint in taints:
        if taint.effect != placement.NO_EXECUTE:
            continue
        bearing = [each for each in pod.spec.tolerations or () if placement.tolerates(each, taint)]
        limits = [float(each.toleration_seconds) for each in bearing if each.toleration_seconds is not None]
        if not bearing:
            limits = [PATIENCE if taint.key in (placement.NOT_READY, placement.UNREACHABLE) else 0.0]
        if limits:
            times.append(seconds(taint.time_added) + max(0.0, min(limits)))
    return min(times, default=None)


class NodeHealth:
    """The controller around `plan_node`: it remembers when it last heard of each node."""

    name = "nodehealth"

    def __init__(self, nodes: Collection[Node], leases: Collection[Lease], pods: Collection[Pod], *, grace: float) -> None:
        self.nodes, self.leases, self.pods, self.grace = nodes, leases, pods, grace
        self.beats: dict[str, float] = {}

    def listen(self, mark: Callable[[str], None]) -> None:
        """A renewed Lease or heartbeat is a beat; a node's change, or a pod that came to a tainted node, marks."""
        def of_lease(old: Lease | None, new: Lease | None) -> None:
            if new is not None and new.metadata.namespace == LEASE_NAMESPACE and (old is None or old.spec != new.spec):
                self._beat(new.metadata.name, mark)

        def of_node(old: Node | None, new: Node | None) -> None:
            if new is None:
                self.beats.pop(old.metadata.name if old else "", None)
                return
            if old is None or _heartbeat(old) != _heartbeat(new):
                self.beats[new.metadata.name] = time.monotonic()
            if old is None or (old.spec, old.status.conditions) != (new.spec, new.status.conditions):
                mark(new.metadata.name)

        def of_pod(old: Pod | None, new: Pod | None) -> None:
            node = self.nodes.get(new.spec.node_name) if new else None
            if node is not None and not node.ready:
                mark(node.metadata.name)

        self.nodes.listeners.append(of_node)
        self.leases.listeners.append(of_lease)
        self.pods.listeners.append(of_pod)

    def _beat(self, name: str, mark: Callable[[str], None]) -> None:
        self.beats[name] = time.monotonic()
        node = self.nodes.get(name)
        if node is not None and not node.ready:
            mark(name)

    def plan(self, key: str, now: float) -> Plan:
        """The node's writes, none once it is gone."""
        node = self.nodes.get(key)
        if node is None:
            return Plan()
        pods = [pod for pod in self.pods if pod.spec.node_name == key]
        connected = any(each.ready for each in self.nodes)
        silence = time.monotonic() - self.beats[key] if key in self.beats else 0.0  # whatever becomes of this machine's clock
        return plan_node(node, pods, now - silence, now, grace=self.grace, evict=connected)


def _heartbeat(node: Node) -> str | None:
    ready = node.condition("Ready")
    return ready.last_heartbeat_time if ready and ready.status != "Unknown" else None
