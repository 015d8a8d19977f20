"""The Pod Security Standard a namespace asks for by its labels: enforced on pods, warned of on pods and what makes them.

    pod-security.kubernetes.io/{enforce,warn,audit}: privileged | baseline | restricted

Read next: `podsecurity_rules.py`.
"""

from __future__ import annotations

from minik8s.apiserver.admission.asked import CREATE, Asked, Object, found
from minik8s.apiserver.admission.podsecurity_rules import broken
from minik8s.apiserver.cluster import Cluster

PREFIX = "pod-security.kubernetes.io/"
LEVELS = ("privileged", "baseline", "restricted")
MAKERS = frozenset({"replicationcontrollers", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs"})


class PodSecurity:
    """The plugin."""

    name = "PodSecurity"
    needs: tuple[str, ...] = ("namespaces",)

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def concerns(self, asked: Asked) -> bool:
        """Pods, what makes them, and namespaces whose labels say something."""
        return asked.plural in ("pods", "pods/ephemeralcontainers", "cronjobs", "namespaces") or asked.plural in MAKERS

    def shape(self, asked: Asked) -> None:
        """Nothing."""

    def check(self, asked: Asked) -> None:
        """Refuse a pod below the enforced level; warn of what is below the others."""
        if asked.plural == "namespaces":
            return self._labels(asked)
        labels = ((found(self._cluster, "namespaces", "", asked.namespace) or {}).get("metadata") or {}).get("labels") or {}
        levels = {mode: labels.get(PREFIX + mode, "") for mode in ("enforce", "warn", "audit")}
        if not any(level in LEVELS[1:] for level in levels.values()):
            return None
        meta, spec = _pod(asked.obj)
        is_pod = asked.plural.startswith("pods")
        if is_pod and asked.operation != CREATE and asked.plural == "pods" and spec == asked.old.get("spec"):
            return None
        if is_pod and (wrong := broken(levels["enforce"], meta, spec)):
            raise asked.refuse(f'violates PodSecurity "{_shown(labels, "enforce")}": {", ".join(wrong)}')
        if wrong := broken(levels["warn"], meta, spec):
            asked.warnings.append(f'would violate PodSecurity "{_shown(labels, "warn")}": {", ".join(wrong)}')
        return None

    def _labels(self, asked: Asked) -> None:
        for mode in ("enforce", "warn", "audit"):
            level = (asked.obj["metadata"].get("labels") or {}).get(PREFIX + mode)
            if level is not None and level not in LEVELS:
                raise asked.refuse(f'label {PREFIX}{mode}: Invalid value: "{level}": must be one of {", ".join(LEVELS)}')


def _shown(labels: dict[str, str], mode: str) -> str:
    return f"{labels.get(PREFIX + mode)}:{labels.get(f'{PREFIX}{mode}-version', 'latest')}"


def _pod(obj: Object) -> tuple[Object, Object]:
    """Metadata and spec of the pod in an object, or that it makes."""
    if obj.get("kind") == "Pod":
        return obj["metadata"], obj.get("spec") or {}
    spec = obj.get("spec") or {}
    if obj.get("kind") == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    template = spec.get("template") or {}
    return template.get("metadata") or {}, template.get("spec") or {}
