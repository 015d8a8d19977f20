"""A pod as CRI's PodSandboxConfig: pure.

Read next: `minik8s/kubelet/container_config.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import names
from .records import Pod, containers_of, uid_of

PER_POD, PER_CONTAINER, OF_THE_NODE, OF_ANOTHER = 0, 1, 2, 3
PROTOCOLS = {"TCP": 0, "UDP": 1, "SCTP": 2}
PROFILES = {"RuntimeDefault": 0, "Unconfined": 1, "Localhost": 2}
NAME_LIMIT = 63


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a pod's configuration takes from its node."""

    name: str
    ips: tuple[str, ...]
    root_dir: str = "/var/lib/kubelet"
    log_dir: str = "/var/log/pods"
    cgroup_root: str = ""
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    searches: tuple[str, ...] = ()
    capacity: Mapping[str, int] | None = None


def namespaces(pod: Pod) -> dict[str, int]:
    """CRI's NamespaceOption."""
    spec = pod["spec"]
    pid = OF_THE_NODE if spec.get("hostPID") else PER_POD if spec.get("shareProcessNamespace") else PER_CONTAINER
    return {
        "network": OF_THE_NODE if spec.get("hostNetwork") else PER_POD,
        "pid": pid, "ipc": OF_THE_NODE if spec.get("hostIPC") else PER_POD,
    }


def hostname(pod: Pod, node: NodeSettings) -> str:
    """The name the pod's processes see."""
    if pod["spec"].get("hostNetwork"):
        return node.name
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:NAME_LIMIT].rstrip("-.")


def sandbox_config(pod: Pod, node: NodeSettings, attempt: int) -> dict[str, Any]:
    """What RunPodSandbox is asked for."""
    meta, context = pod["metadata"], pod["spec"].get("securityContext") or {}
    uid, namespace = uid_of(pod), meta.get("namespace", "default")
    security: dict[str, Any] = {"namespace_options": namespaces(pod), "privileged": _any_privileged(pod)}
    security |= identity(context)
    seccomp = profile(context.get("seccompProfile"))
    if seccomp:
        security["seccomp"] = seccomp
    linux: dict[str, Any] = {
        "security_context": security,
        "sysctls": {item["name"]: str(item["value"]) for item in context.get("sysctls") or []},
    }
    if node.cgroup_root:
        linux["cgroup_parent"] = names.pod_cgroup(node.cgroup_root, uid)
    made = {
        "metadata": {"name": meta["name"], "namespace": namespace, "uid": uid, "attempt": attempt},
        "hostname": "" if pod["spec"].get("hostNetwork") else hostname(pod, node),
        "log_directory": names.log_directory(node.log_dir, namespace, meta["name"], uid),
        "port_mappings": port_mappings(pod),
        "labels": dict(meta.get("labels") or {}) | pod_labels(pod),
        "annotations": dict(meta.get("annotations") or {}),
        "linux": linux,
    }
    dns = dns_config(pod, node)
    return made | ({"dns_config": dns} if dns else {})


def pod_labels(pod: Pod) -> dict[str, str]:
    """By which everything of a pod is found again."""
    meta = pod["metadata"]
    return {names.POD: meta["name"], names.NAMESPACE: meta.get("namespace", "default"), names.UID: meta["uid"]}


def identity(context: Mapping[str, Any]) -> dict[str, Any]:
    """User, group and supplemental groups of a security context."""
    made: dict[str, Any] = {}
    if context.get("runAsUser") is not None:
        made["run_as_user"] = {"value": int(context["runAsUser"])}
        if context.get("runAsGroup") is not None:
            made["run_as_group"] = {"value": int(context["runAsGroup"])}
    groups = [int(group) for group in context.get("supplementalGroups") or []]
    if context.get("fsGroup") is not None:
        groups.append(int(context["fsGroup"]))
    if groups:
        made["supplemental_groups"] = groups
    return made


def profile(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """A seccomp or AppArmor profile, or nothing."""
    if not given:
        return {}
    return {"profile_type": PROFILES[given["type"]], "localhost_ref": given.get("localhostProfile") or ""}


def port_mappings(pod: Pod) -> list[dict[str, Any]]:
    """hostPorts, for the portmap CNI plugin; a pod in the node's network needs none."""
    if pod["spec"].get("hostNetwork"):
        return []
    return [
        {"protocol": PROTOCOLS[port.get("protocol") or "TCP"], "container_port": port["containerPort"],
         "host_port": port["hostPort"], "host_ip": port.get("hostIP") or ""}
        for spec in containers_of(pod) for port in spec.get("ports") or [] if port.get("hostPort")
    ]


def dns_config(pod: Pod, node: NodeSettings) -> dict[str, list[str]]:
    """What goes into resolv.conf; empty = a copy of the node's."""
    spec = pod["spec"]
    policy, extra = spec.get("dnsPolicy") or "ClusterFirst", spec.get("dnsConfig") or {}
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet") and node.cluster_dns:
        domain, namespace = node.cluster_domain, pod["metadata"].get("namespace", "default")
        servers = list(node.cluster_dns)
        searches = [f"{namespace}.svc.{domain}", f"svc.{domain}", domain, *node.searches]
        options = ["ndots:5"]
    servers += [item for item in extra.get("nameservers") or [] if item not in servers]
    searches += [item for item in extra.get("searches") or [] if item not in searches]
    options += [item["name"] + (f":{item['value']}" if item.get("value") else "") for item in extra.get("options") or []]
    made = {"servers": servers, "searches": searches, "options": options}
    return {key: value for key, value in made.items() if value}


def _any_privileged(pod: Pod) -> bool:
    specs = [*containers_of(pod), *(pod["spec"].get("initContainers") or [])]
    return any((spec.get("securityContext") or {}).get("privileged") for spec in specs)
