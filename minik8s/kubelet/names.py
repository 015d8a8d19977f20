"""Every label, annotation and path by which the kubelet finds its own things again after a restart.

The `io.kubernetes.*` ones are the real kubelet's, so that either can adopt the other's pods (and `crictl` shows them).
Pure. Read next: `minik8s/kubelet/sandbox_config.py`, `minik8s/kubelet/container_config.py`.
"""

from __future__ import annotations

POD = "io.kubernetes.pod.name"
NAMESPACE = "io.kubernetes.pod.namespace"
UID = "io.kubernetes.pod.uid"
CONTAINER = "io.kubernetes.container.name"
RESTARTS = "io.kubernetes.container.restartCount"
GRACE = "io.kubernetes.pod.terminationGracePeriod"
IMAGE = "minik8s.io/image"
"""The image by the name the pod gave it: the runtime only knows its digest."""
DELAY = "minik8s.io/crash-loop-delay"
"""Seconds of crash-loop delay that this run was started after."""
LAST_WORDS = "minik8s.io/termination-message-file"


def pod_directory(root: str, uid: str) -> str:
    """Where a pod's volumes and files live."""
    return f"{root}/pods/{uid}"


def volume_directory(root: str, uid: str, kind: str, volume: str) -> str:
    """One volume of a pod; `kind` as the real kubelet names the plugin (`empty-dir`, `configmap`, ...)."""
    return f"{pod_directory(root, uid)}/volumes/kubernetes.io~{kind}/{volume}"


def log_directory(root: str, namespace: str, name: str, uid: str) -> str:
    """Where a pod's container logs live."""
    return f"{root}/{namespace}_{name}_{uid}"


def log_file(container: str, attempt: int) -> str:
    """A run's log, relative to `log_directory`."""
    return f"{container}/{attempt}.log"


def pod_cgroup(root: str, uid: str) -> str:
    """The cgroup above a pod's containers."""
    return f"{root.rstrip('/')}/kubepods/pod{uid}"
