"""This node as an API object: pure, from what the machine is and how the runtime does.

Read next: `minik8s/kubelet/node.py`, which writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .config import Config
from .machine import Machine
from .times import micro_stamp, stamp

MEMORY_LOW, DISK_LOW, PIDS_LOW = 100 * 1024 * 1024, 0.05, 1000
LEASE_SECONDS = 40


@dataclass(frozen=True, slots=True)
class Health:
    """How the node does at one moment; `not_ready` says why it takes no pods, or is empty."""

    not_ready: str
    memory_available: int
    disk_free_share: float
    pids_left: int


def conditions(health: Health, old: Mapping[str, Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    """The node's four conditions; a condition that stays keeps its transition time."""

    def one(kind: str, *, status: bool, reason: str, message: str) -> dict[str, Any]:
        text = "True" if status else "False"
        before = old.get(kind) or {}
        since = before.get("lastTransitionTime") if before.get("status") == text else None
        return {"type": kind, "status": text, "reason": reason, "message": message, "lastHeartbeatTime": stamp(now),
                "lastTransitionTime": since or stamp(now)}

    memory, disk = health.memory_available < MEMORY_LOW, health.disk_free_share < DISK_LOW
    pids = health.pids_left < PIDS_LOW
    return [
        one("MemoryPressure", status=memory, reason="KubeletHasInsufficientMemory" if memory else "KubeletHasSufficientMemory",
            message="kubelet has insufficient memory available" if memory else "kubelet has sufficient memory available"),
        one("DiskPressure", status=disk, reason="KubeletHasDiskPressure" if disk else "KubeletHasNoDiskPressure",
            message="kubelet has disk pressure" if disk else "kubelet has no disk pressure"),
        one("PIDPressure", status=pids, reason="KubeletHasInsufficientPID" if pids else "KubeletHasSufficientPID",
            message="kubelet has insufficient PID available" if pids else "kubelet has sufficient PID available"),
        one("Ready", status=not health.not_ready, reason="KubeletNotReady" if health.not_ready else "KubeletReady",
            message=health.not_ready or "kubelet is posting ready status"),
    ]


def node_labels(config: Config, machine: Machine) -> dict[str, str]:
    """The labels a node gives itself."""
    return {
        "kubernetes.io/hostname": config.hostname_override,
        "kubernetes.io/os": "linux", "kubernetes.io/arch": machine.architecture,
        "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": machine.architecture, **config.labels(),
    }


def node_status(config: Config, machine: Machine, health: Health, old: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The parts of a node's status that are the kubelet's."""
    capacity = {
        "cpu": str(machine.cpus), "memory": f"{machine.memory // 1024}Ki", "ephemeral-storage": f"{machine.disk // 1024}Ki",
        "pods": str(config.max_pods),
    }
    before = {item["type"]: item for item in old.get("conditions") or []}
    return {
        "capacity": capacity, "allocatable": dict(capacity),
        "addresses": [*({"type": "InternalIP", "address": address} for address in config.node_ips),
                      {"type": "Hostname", "address": config.hostname_override}],
        "conditions": conditions(health, before, now), "nodeInfo": dict(machine.info),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
    }


def without_heartbeat(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status as far as a change in it is news."""
    plain = [{key: value for key, value in item.items() if key != "lastHeartbeatTime"} for item in status["conditions"]]
    return dict(status) | {"conditions": plain}


def replacing_addresses(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status as a strategic patch: addresses are merged by type, which is not unique where there are two families."""
    return dict(status) | {"addresses": [*status["addresses"], {"$patch": "replace"}]}


def node_lease(name: str, owner_uid: str, now: float) -> dict[str, Any]:
    """The object whose renewal says that this node is alive."""
    meta: dict[str, Any] = {"name": name, "namespace": "kube-node-lease"}
    if owner_uid:
        meta["ownerReferences"] = [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": owner_uid}]
    return {
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta,
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": micro_stamp(now)},
    }
