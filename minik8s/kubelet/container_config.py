"""A container as CRI's ContainerConfig: pure, given its environment and where its volumes are.

Read next: `minik8s/kubelet/worker.py`, which creates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import names
from .environment import expand
from .records import Pod
from .resources import linux_resources
from .sandbox_config import OF_ANOTHER, NodeSettings, identity, namespaces, pod_labels, profile

MASKED = ("/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
          "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
          "/sys/devices/virtual/powercap")
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
PROPAGATION = {"None": 0, "HostToContainer": 1, "Bidirectional": 2}


@dataclass(frozen=True, slots=True)
class Bind:
    """A host path made visible inside a container."""

    host: str
    inside: str
    read_only: bool = False
    propagation: str = "None"

    def mount(self) -> dict[str, Any]:
        """CRI's Mount."""
        return {"container_path": self.inside, "host_path": self.host, "readonly": self.read_only,
                "propagation": PROPAGATION[self.propagation]}


@dataclass(frozen=True, slots=True)
class Run:
    """Which run of a container this is."""

    attempt: int
    delay: float
    image_id: str
    last_words: str
    target: str = ""
    """The id of the container whose processes it shall see."""


def container_config(pod: Pod, spec: Mapping[str, Any], node: NodeSettings, run: Run, variables: Mapping[str, str],
                     binds: Sequence[Bind]) -> dict[str, Any]:
    """What CreateContainer is asked for."""
    name = spec["name"]
    return {
        "metadata": {"name": name, "attempt": run.attempt},
        "image": {"image": run.image_id},
        "command": [expand(word, variables) for word in spec.get("command") or []],
        "args": [expand(word, variables) for word in spec.get("args") or []],
        "working_dir": spec.get("workingDir") or "",
        "envs": [{"key": key, "value": value} for key, value in variables.items()],
        "mounts": [bind.mount() for bind in binds],
        "labels": pod_labels(pod) | {names.CONTAINER: name},
        "annotations": {
            names.RESTARTS: str(run.attempt), names.IMAGE: str(spec.get("image", "")), names.DELAY: f"{run.delay:g}",
            names.GRACE: str(pod["spec"].get("terminationGracePeriodSeconds", 30)), names.LAST_WORDS: run.last_words,
        },
        "log_path": names.log_file(name, run.attempt),
        "stdin": bool(spec.get("stdin")), "stdin_once": bool(spec.get("stdinOnce")), "tty": bool(spec.get("tty")),
        "linux": {
            "resources": linux_resources(pod, spec, (node.capacity or {}).get("memory", 0)),
            "security_context": security_context(pod, spec, run.target),
        },
    }


def security_context(pod: Pod, spec: Mapping[str, Any], target: str = "") -> dict[str, Any]:
    """CRI's LinuxContainerSecurityContext: the container's settings over the pod's."""
    of_pod, own = pod["spec"].get("securityContext") or {}, spec.get("securityContext") or {}
    privileged = bool(own.get("privileged"))
    given = own.get("capabilities") or {}
    made: dict[str, Any] = {
        "namespace_options": namespaces(pod) | ({"pid": OF_ANOTHER, "target_id": target} if target else {}),
        "privileged": privileged,
        "readonly_rootfs": bool(own.get("readOnlyRootFilesystem")),
        "no_new_privs": own.get("allowPrivilegeEscalation") is False,
        "capabilities": {"add_capabilities": list(given.get("add") or []), "drop_capabilities": list(given.get("drop") or [])},
    }
    made |= identity(of_pod | own)
    if not privileged and own.get("procMount") != "Unmasked":
        made |= {"masked_paths": list(MASKED), "readonly_paths": list(READ_ONLY)}
    for key, target in (("seccompProfile", "seccomp"), ("appArmorProfile", "apparmor")):
        chosen = profile(own.get(key) or of_pod.get(key))
        if chosen and not privileged:
            made[target] = chosen
    return made


def runs_as_root(pod: Pod, spec: Mapping[str, Any], image_uid: int | None, image_user: str) -> str:
    """Why a container marked runAsNonRoot must not start, or an empty string."""
    context = dict(pod["spec"].get("securityContext") or {}) | dict(spec.get("securityContext") or {})
    if not context.get("runAsNonRoot"):
        return ""
    user = context.get("runAsUser")
    if user is not None:
        return "container's runAsUser breaks non-root policy" if int(user) == 0 else ""
    if image_user and image_uid is None:
        return f"container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root"
    return "" if image_uid else "container has runAsNonRoot and image will run as root"
