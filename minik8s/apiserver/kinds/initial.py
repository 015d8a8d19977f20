"""The state every new object begins in, whatever its author wrote: an empty status, a pod's phase and quality.

Pure. Must not know: HTTP, storage. Read next: `defaults.py`, which comes after it.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.kinds.catalogue import Kind
from minik8s.apiserver.kinds.defaults_pod import each, section

Object = dict[str, Any]
KEEPS_STATUS = frozenset({"Node"})
EMPTY: dict[str, Object] = {"Service": {"loadBalancer": {}}, "ReplicaSet": {"replicas": 0}, "DaemonSet": {
    "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0},
    "ReplicationController": {"replicas": 0}, "StatefulSet": {"replicas": 0, "availableReplicas": 0},
    "PersistentVolume": {"phase": "Pending"}, "PersistentVolumeClaim": {"phase": "Pending"}, "Ingress": {"loadBalancer": {}},
    "PodDisruptionBudget": {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0},
    "HorizontalPodAutoscaler": {"currentMetrics": None, "desiredReplicas": 0}, "VolumeAttachment": {"attached": False}}
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
MIRROR = "kubernetes.io/config.mirror"
JOB_LABELS = ("batch.kubernetes.io/controller-uid", "controller-uid", "batch.kubernetes.io/job-name", "job-name")


def prepare(kind: Kind, obj: Object) -> None:
    """Reset the status of an object that is about to be created; name the account of a pod that mirrors no file."""
    name = kind.own
    if name == "Namespace":
        obj["status"] = {"phase": "Active"}
    elif name == "Pod":
        spec = section(obj, "spec")
        mirror = MIRROR in section(obj["metadata"], "annotations")
        if spec and not mirror and not spec.get("serviceAccountName") and not spec.get("serviceAccount"):
            spec["serviceAccountName"] = "default"
        obj["status"] = {"phase": "Pending", "qosClass": quality(spec)}
    elif kind.custom and kind.has_status:
        obj.pop("status", None)
    elif kind.has_status and name not in KEEPS_STATUS:
        obj["status"] = dict(EMPTY.get(name, {}))
    if name == "ServiceCIDR":
        ready = {"type": "Ready", "status": "True", "reason": "", "message": "addresses are given out of it"}
        obj["status"] = {"conditions": [{**ready, "lastTransitionTime": obj["metadata"]["creationTimestamp"]}]}
    if name == "FlowSchema":
        found = dangling(obj, missing=False)  # whoever watches over it mends this
        obj["status"] = {"conditions": [{**found, "lastTransitionTime": obj["metadata"]["creationTimestamp"]}]}
    if name == "CustomResourceDefinition":
        finalizers = obj["metadata"].setdefault("finalizers", [])
        if CLEANUP not in finalizers:
            finalizers.append(CLEANUP)
    if name == "Job":
        _select_own(obj)


def dangling(flow: Object, *, missing: bool) -> Object:
    """The condition of a FlowSchema that says whether its level is there."""
    level = section(section(flow, "spec"), "priorityLevelConfiguration").get("name")
    about = f'This FlowSchema references the PriorityLevelConfiguration object named "{level}"'
    if missing:
        return {"type": "Dangling", "status": "True", "reason": "NotFound", "message": f"{about} but there is no such object"}
    return {"type": "Dangling", "status": "False", "reason": "Found", "message": f"{about} and it exists"}


def _select_own(job: Object) -> None:
    """A Job's pods are told by its uid, unless its author selects them."""
    spec, meta = section(job, "spec"), job["metadata"]
    if not spec or spec.get("manualSelector"):
        return
    values = (meta["uid"], meta["uid"], meta["name"], meta["name"])
    labels = section(section(section(spec, "template", make=True), "metadata", make=True), "labels", make=True)
    labels.update(dict(zip(JOB_LABELS, values, strict=True)))
    selector = section(spec, "selector", make=True)
    section(selector, "matchLabels", make=True)[JOB_LABELS[0]] = meta["uid"]


def quality(spec: Object) -> str:
    """A pod's quality of service: Guaranteed if all limits are all requests, BestEffort if there are none."""
    containers = [section(item, "resources") for part in ("containers", "initContainers") for item in each(spec, part)]
    if not any(section(item, part) for item in containers for part in ("requests", "limits")):
        return "BestEffort"
    for item in containers:
        limits, requests = section(item, "limits"), section(item, "requests")
        if any(name not in limits or requests.get(name, limits[name]) != limits[name] for name in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"
