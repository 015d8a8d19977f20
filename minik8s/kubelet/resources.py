"""Requests and limits as the kernel's knobs: CPU shares and quota, memory limit, OOM score, and the pod's QoS class.

The figures are those of Kubernetes (its cgroup v1 units; the runtime translates them for v2).
Pure. Read next: `minik8s/kubelet/container_config.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodecore.kube.quantity import parse_milli, parse_whole

from .records import Pod, containers_of, init_containers_of

PERIOD = 100_000
MIN_SHARES, MAX_SHARES, MIN_QUOTA = 2, 262_144, 1000
OOM_GUARANTEED, OOM_BEST_EFFORT = -997, 1000


def amounts(spec: Mapping[str, Any], kind: str) -> dict[str, str]:
    """`limits` or `requests` of a container; a request that is not given is its limit."""
    resources = spec.get("resources") or {}
    limits = resources.get("limits") or {}
    if kind == "limits":
        return dict(limits)
    return dict(limits) | dict(resources.get("requests") or {})


def qos_class(pod: Pod) -> str:
    """`Guaranteed`, `Burstable` or `BestEffort`."""
    guaranteed, any_given = True, False
    for spec in (*init_containers_of(pod), *containers_of(pod)):
        limits, requests = amounts(spec, "limits"), amounts(spec, "requests")
        for name in ("cpu", "memory"):
            wanted = parse_milli(requests.get(name, 0))
            any_given = any_given or wanted > 0 or parse_milli(limits.get(name, 0)) > 0
            guaranteed = guaranteed and wanted > 0 and wanted == parse_milli(limits.get(name, 0))
    if not any_given:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def linux_resources(pod: Pod, spec: Mapping[str, Any], memory_capacity: int) -> dict[str, int]:
    """CRI's LinuxContainerResources of a container."""
    limits, requests = amounts(spec, "limits"), amounts(spec, "requests")
    made = {
        "cpu_period": PERIOD,
        "cpu_shares": cpu_shares(parse_milli(requests.get("cpu", 0))),
        "oom_score_adj": oom_score(pod, parse_whole(requests.get("memory", 0)), memory_capacity),
    }
    if "cpu" in limits:
        made["cpu_quota"] = max(MIN_QUOTA, parse_milli(limits["cpu"]) * PERIOD // 1000)
    if "memory" in limits:
        made["memory_limit_in_bytes"] = parse_whole(limits["memory"])
    return made


def cpu_shares(milli: int) -> int:
    """1024 shares a core, within the kernel's limits."""
    return min(MAX_SHARES, max(MIN_SHARES, milli * 1024 // 1000))


def oom_score(pod: Pod, memory_request: int, capacity: int) -> int:
    """The more of the node's memory a container asked for, the later it is killed."""
    kind = qos_class(pod)
    if kind == "Guaranteed":
        return OOM_GUARANTEED
    if kind == "BestEffort" or not capacity:
        return OOM_BEST_EFFORT
    return max(3, min(999, 1000 - 1000 * memory_request // capacity))
