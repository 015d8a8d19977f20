"""Typed views of what runs: pods, the nodes they run on, and the objects that own them.

Only the fields that scheduler and controllers decide by; pod templates stay raw, they are copied and compared, not read.
Pure. Read next: `nodecore/kube/placement.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nodecore.kube.labels import LabelSelector
from nodecore.kube.objects import ObjectMeta, View

Raw = dict[str, Any]


def seconds(stamp: str | None) -> float:
    """An RFC 3339 time as seconds since 1970; 0 where there is none."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0


def stamp(at: float) -> str:
    """Seconds since 1970 as Kubernetes writes a `Time`."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp(at: float) -> str:
    """Seconds since 1970 as Kubernetes writes a `MicroTime`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class OwnerReference(View, frozen=True):
    """meta/v1 OwnerReference."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class Meta(ObjectMeta, frozen=True):
    """ObjectMeta with what ownership and ageing need."""

    generation: int = 0
    creation_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    owner_references: list[OwnerReference] | None = None
    finalizers: list[str] | None = None

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that controls this object."""
        return next((ref for ref in self.owner_references or () if ref.controller), None)

    @property
    def key(self) -> str:
        """`namespace/name`, or `name`."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Anything(View, frozen=True):
    """Any object, of which only the metadata matters."""

    metadata: Meta = Meta()


class Resources(View, frozen=True):
    """core/v1 ResourceRequirements."""

    requests: dict[str, str | int | float] | None = None
    limits: dict[str, str | int | float] | None = None


class ContainerPort(View, frozen=True):
    """core/v1 ContainerPort."""

    container_port: int = 0
    name: str = ""
    protocol: str = "TCP"
    host_port: int = 0
    host_ip: str = ""


class Container(View, frozen=True):
    """core/v1 Container."""

    name: str = ""
    resources: Resources | None = None
    ports: list[ContainerPort] | None = None
    restart_policy: str | None = None


class Toleration(View, frozen=True):
    """core/v1 Toleration."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class Requirement(View, frozen=True):
    """core/v1 NodeSelectorRequirement."""

    key: str
    operator: str
    values: list[str] | None = None


class NodeTerm(View, frozen=True):
    """core/v1 NodeSelectorTerm."""

    match_expressions: list[Requirement] | None = None
    match_fields: list[Requirement] | None = None


class NodeTerms(View, frozen=True):
    """core/v1 NodeSelector: one of the terms must match."""

    node_selector_terms: list[NodeTerm] | None = None


class PreferredTerm(View, frozen=True):
    """core/v1 PreferredSchedulingTerm."""

    weight: int = 1
    preference: NodeTerm = NodeTerm()


class NodeAffinity(View, frozen=True):
    """core/v1 NodeAffinity."""

    required_during_scheduling_ignored_during_execution: NodeTerms | None = None
    preferred_during_scheduling_ignored_during_execution: list[PreferredTerm] | None = None


class PodAffinity(View, frozen=True):
    """core/v1 PodAffinity and PodAntiAffinity: whether something is required, not what."""

    required_during_scheduling_ignored_during_execution: list[dict[str, object]] | None = None


class Affinity(View, frozen=True):
    """core/v1 Affinity."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class TopologySpreadConstraint(View, frozen=True):
    """core/v1 TopologySpreadConstraint, as far as to see whether it binds."""

    when_unsatisfiable: str = ""


class PodSpec(View, frozen=True):
    """core/v1 PodSpec."""

    node_name: str = ""
    scheduler_name: str = ""
    node_selector: dict[str, str] | None = None
    affinity: Affinity | None = None
    topology_spread_constraints: list[TopologySpreadConstraint] | None = None
    tolerations: list[Toleration] | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None
    overhead: dict[str, str | int | float] | None = None
    host_network: bool = False
    hostname: str = ""
    subdomain: str = ""
    priority: int | None = None
    scheduling_gates: list[Raw] | None = None


class Condition(View, frozen=True):
    """A condition of a pod, a node or a workload."""

    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None
    last_heartbeat_time: str | None = None
    last_update_time: str | None = None


class PodIP(View, frozen=True):
    """core/v1 PodIP."""

    ip: str = ""


class ContainerState(View, frozen=True):
    """core/v1 ContainerStatus."""

    restart_count: int = 0


class PodStatus(View, frozen=True):
    """core/v1 PodStatus."""

    phase: str = "Pending"
    conditions: list[Condition] | None = None
    pod_ip: str = ""
    pod_ips: list[PodIP] | None = None
    container_statuses: list[ContainerState] | None = None


class Pod(View, frozen=True):
    """core/v1 Pod."""

    metadata: Meta = Meta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def finished(self) -> bool:
        """Whether it will never run again."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def active(self) -> bool:
        """Whether it counts as a replica: neither finished nor on its way out."""
        return not self.finished and self.metadata.deletion_timestamp is None

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((found for found in self.status.conditions or () if found.type == kind), None)

    @property
    def ready(self) -> bool:
        """Whether its Ready condition is true."""
        found = self.condition("Ready")
        return found is not None and found.status == "True"

    def available_at(self, min_ready_seconds: int) -> float | None:
        """When it is or was available: ready for that long; None while it is not ready."""
        found = self.condition("Ready")
        if found is None or found.status != "True":
            return None
        return seconds(found.last_transition_time) + min_ready_seconds if min_ready_seconds else 0.0


class NodeTaint(View, frozen=True):
    """core/v1 Taint with its time."""

    key: str
    effect: str = ""
    value: str = ""
    time_added: str | None = None


class NodeSpec(View, frozen=True):
    """core/v1 NodeSpec."""

    pod_cidr: str = ""
    pod_cidrs: list[str] | None = None
    taints: list[NodeTaint] | None = None
    unschedulable: bool = False


class NodeStatus(View, frozen=True):
    """core/v1 NodeStatus."""

    allocatable: dict[str, str | int | float] | None = None
    capacity: dict[str, str | int | float] | None = None
    conditions: list[Condition] | None = None


class Node(View, frozen=True):
    """core/v1 Node as scheduler and controllers weigh it."""

    metadata: Meta = Meta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((found for found in self.status.conditions or () if found.type == kind), None)

    @property
    def ready(self) -> bool:
        """Whether its kubelet says so."""
        found = self.condition("Ready")
        return found is not None and found.status == "True"


class ReplicaSetSpec(View, frozen=True):
    """apps/v1 ReplicaSetSpec."""

    replicas: int | None = None
    min_ready_seconds: int = 0
    selector: LabelSelector | None = None
    template: Raw | None = None

    @property
    def wanted(self) -> int:
        """How many replicas; one where nothing is said."""
        return 1 if self.replicas is None else self.replicas


class ReplicaSet(View, frozen=True):
    """apps/v1 ReplicaSet."""

    metadata: Meta = Meta()
    spec: ReplicaSetSpec = ReplicaSetSpec()
    status: Raw | None = None


class RollingUpdate(View, frozen=True):
    """The numbers of a rolling update: a count, or a percentage such as `25%`."""

    max_surge: int | str | None = None
    max_unavailable: int | str | None = None


class Strategy(View, frozen=True):
    """apps/v1 DeploymentStrategy and DaemonSetUpdateStrategy."""

    type: str = "RollingUpdate"
    rolling_update: RollingUpdate | None = None


class DeploymentSpec(ReplicaSetSpec, frozen=True):
    """apps/v1 DeploymentSpec."""

    strategy: Strategy = Strategy()
    revision_history_limit: int | None = None
    paused: bool = False
    progress_deadline_seconds: int | None = None


class DeploymentStatus(View, frozen=True):
    """apps/v1 DeploymentStatus."""

    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    collision_count: int | None = None
    conditions: list[Condition] | None = None

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((found for found in self.conditions or () if found.type == kind), None)


class Deployment(View, frozen=True):
    """apps/v1 Deployment."""

    metadata: Meta = Meta()
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


class DaemonSetSpec(View, frozen=True):
    """apps/v1 DaemonSetSpec."""

    selector: LabelSelector | None = None
    template: Raw | None = None
    update_strategy: Strategy = Strategy()
    min_ready_seconds: int = 0
    revision_history_limit: int = 10


class DaemonSet(View, frozen=True):
    """apps/v1 DaemonSet."""

    metadata: Meta = Meta()
    spec: DaemonSetSpec = DaemonSetSpec()
    status: Raw | None = None
