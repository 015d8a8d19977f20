"""Defaults of the kinds that need no code of their own: a table of paths and values, applied in order.

Pure and total. Must not know: HTTP, storage. Read next: `paths.py`, `defaults.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from minik8s.apiserver.kinds.defaults_pod import each, pod_spec, section
from minik8s.apiserver.kinds.paths import holders

Object = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"
HOOK: tuple[tuple[str, Any], ...] = (
    ("webhooks[].failurePolicy", "Fail"), ("webhooks[].matchPolicy", "Equivalent"), ("webhooks[].namespaceSelector", {}),
    ("webhooks[].objectSelector", {}), ("webhooks[].timeoutSeconds", 10), ("webhooks[].rules[].scope", "*"),
    ("webhooks[].clientConfig.service.port", 443),
)
VALUES: dict[str, tuple[tuple[str, Any], ...]] = {
    "StatefulSet": (
        ("spec.replicas", 1), ("spec.podManagementPolicy", "OrderedReady"), ("spec.revisionHistoryLimit", 10),
        ("spec.updateStrategy+.type", "RollingUpdate"), ("spec.persistentVolumeClaimRetentionPolicy+.whenDeleted", "Retain"),
        ("spec.persistentVolumeClaimRetentionPolicy+.whenScaled", "Retain"), ("spec.volumeClaimTemplates[].apiVersion", "v1"),
        ("spec.volumeClaimTemplates[].kind", "PersistentVolumeClaim"),
        ("spec.volumeClaimTemplates[].spec.volumeMode", "Filesystem"), ("spec.volumeClaimTemplates[].status+.phase", "Pending"),
    ),
    "ReplicationController": (("spec.replicas", 1),),
    "Job": (("spec.backoffLimit", 6), ("spec.completionMode", "NonIndexed"), ("spec.suspend", False)),
    "CronJob": (
        ("spec.concurrencyPolicy", "Allow"), ("spec.suspend", False), ("spec.successfulJobsHistoryLimit", 3),
        ("spec.failedJobsHistoryLimit", 1),
    ),
    "HorizontalPodAutoscaler": (("spec.minReplicas", 1),),
    "IngressClass": (("spec.parameters.scope", "Cluster"),),
    "NetworkPolicy": (("spec.ingress[].ports[].protocol", "TCP"), ("spec.egress[].ports[].protocol", "TCP")),
    "PersistentVolumeClaim": (("spec.volumeMode", "Filesystem"), ("status+.phase", "Pending")),
    "PersistentVolume": (
        ("spec.volumeMode", "Filesystem"), ("spec.persistentVolumeReclaimPolicy", "Retain"), ("spec.hostPath.type", ""),
        ("spec.claimRef.kind", "PersistentVolumeClaim"), ("spec.claimRef.apiVersion", "v1"), ("status+.phase", "Pending"),
    ),
    "PriorityClass": (("preemptionPolicy", "PreemptLowerPriority"), ("value", 0)),
    "StorageClass": (("reclaimPolicy", "Delete"), ("volumeBindingMode", "Immediate")),
    "CSIDriver": (
        ("spec.attachRequired", True), ("spec.podInfoOnMount", False), ("spec.storageCapacity", False),
        ("spec.fsGroupPolicy", "ReadWriteOnceWithFSType"), ("spec.volumeLifecycleModes", ["Persistent"]),
        ("spec.requiresRepublish", False), ("spec.seLinuxMount", False),
    ),
    "FlowSchema": (("spec.matchingPrecedence", 1000),),
    "PriorityLevelConfiguration": (
        ("spec.limited.nominalConcurrencyShares", 30), ("spec.limited.lendablePercent", 0),
        ("spec.limited.limitResponse.queuing.queues", 64), ("spec.limited.limitResponse.queuing.handSize", 8),
        ("spec.limited.limitResponse.queuing.queueLengthLimit", 50), ("spec.exempt.nominalConcurrencyShares", 0),
        ("spec.exempt.lendablePercent", 0),
    ),
    "ClusterRoleBinding": (("roleRef.apiGroup", RBAC),),
    "RoleBinding": (("roleRef.apiGroup", RBAC),),
    "MutatingWebhookConfiguration": (*HOOK, ("webhooks[].reinvocationPolicy", "Never")),
    "ValidatingWebhookConfiguration": HOOK,
    "CustomResourceDefinition": (("spec.conversion+.strategy", "None"),),
}
TEMPLATES = {  # where a kind has a pod template
    "StatefulSet": ("spec", "template"), "ReplicationController": ("spec", "template"), "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"), "PodTemplate": ("template",),
}


def fill(kind: str, obj: Object) -> None:
    """Fill in what the tables say of a kind."""
    path = TEMPLATES.get(kind)
    if path:
        template = obj
        for step in path:
            template = section(template, step)
        if template:
            section(template, "metadata", make=True).setdefault("creationTimestamp", None)
            pod_spec(section(template, "spec"))
    for where, value in VALUES.get(kind, ()):
        for holder, name, _ in holders(obj, where):
            if holder.get(name) is None:
                holder[name] = copy.copy(value)
    further = FURTHER.get(kind)
    if further:
        further(obj)


def _stateful_set(obj: Object) -> None:
    strategy = section(section(obj, "spec"), "updateStrategy")
    if strategy.get("type") == "RollingUpdate":
        section(strategy, "rollingUpdate", make=True).setdefault("partition", 0)


def _controller(obj: Object) -> None:
    spec = section(obj, "spec")
    labels = section(section(section(spec, "template"), "metadata"), "labels")
    if labels and not spec.get("selector"):
        spec["selector"] = dict(labels)
    meta = section(obj, "metadata")
    if labels and not meta.get("labels"):
        meta["labels"] = dict(labels)


def _job(obj: Object) -> None:
    spec = section(obj, "spec")
    if not spec:
        return
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    if spec.get("parallelism") is None:
        spec["parallelism"] = 1
    spec.setdefault("podReplacementPolicy", "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed")


def _autoscaler(obj: Object) -> None:
    spec = section(obj, "spec")
    if spec and not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]


def _network_policy(obj: Object) -> None:
    spec = section(obj, "spec")
    if spec and not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", *(["Egress"] if spec.get("egress") else [])]


def _limit_range(obj: Object) -> None:
    for item in each(section(obj, "spec"), "limits"):
        if item.get("type") != "Container":
            continue
        for target, sources in (("default", ("max",)), ("defaultRequest", ("default", "min"))):
            made = dict(section(item, target))
            for source in sources:
                for name, amount in section(item, source).items():
                    made.setdefault(name, amount)
            if made:
                item[target] = made


def _binding(obj: Object) -> None:
    for subject in each(obj, "subjects"):
        if subject.get("kind") in ("User", "Group"):
            subject.setdefault("apiGroup", RBAC)


def _definition(obj: Object) -> None:
    names = section(section(obj, "spec"), "names")
    kind = names.get("kind")
    if isinstance(kind, str) and kind:
        for field, value in (("singular", kind.lower()), ("listKind", f"{kind}List")):
            if not names.get(field):
                names[field] = value


FURTHER: dict[str, Callable[[Object], None]] = {
    "StatefulSet": _stateful_set, "ReplicationController": _controller, "Job": _job, "HorizontalPodAutoscaler": _autoscaler,
    "NetworkPolicy": _network_policy, "LimitRange": _limit_range, "RoleBinding": _binding, "ClusterRoleBinding": _binding,
    "CustomResourceDefinition": _definition,
}
