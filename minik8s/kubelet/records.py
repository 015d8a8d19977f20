"""What is known of a pod's sandboxes, containers and probes: frozen values that `plan.py` and `status.py` decide on.

Pure. Read next: `minik8s/kubelet/plan.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Pod = dict[str, Any]
Spec = Mapping[str, Any]

CREATED, RUNNING, EXITED, UNKNOWN = "created", "running", "exited", "unknown"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's shared namespaces; `attempt` grows with every new one."""

    id: str
    attempt: int
    ready: bool
    created: float
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """One run of a container; `attempt` is its restart count, `delay` the crash-loop delay it was started after."""

    id: str
    name: str
    attempt: int
    sandbox: str
    state: str
    image: str = ""
    image_id: str = ""
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    delay: float = 0.0
    log_path: str = ""


@dataclass(frozen=True, slots=True)
class Actual:
    """All the runtime holds for one pod, newest first."""

    sandboxes: tuple[Sandbox, ...] = ()
    containers: tuple[Container, ...] = ()

    @property
    def current(self) -> Sandbox | None:
        """The newest sandbox, ready or not."""
        return self.sandboxes[0] if self.sandboxes else None

    def latest(self, name: str) -> Container | None:
        """The newest run of a container, whichever sandbox it was in."""
        return next((item for item in self.containers if item.name == name), None)

    def previous(self, name: str) -> Container | None:
        """The run before the newest one."""
        runs = [item for item in self.containers if item.name == name]
        return runs[1] if len(runs) > 1 else None

    def running(self) -> tuple[Container, ...]:
        """Every container with a process, or one whose state the runtime does not know."""
        return tuple(item for item in self.containers if item.state in (RUNNING, UNKNOWN))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the probes say of one running container; `failing` is why it must be killed, or empty."""

    started: bool = True
    ready: bool = True
    failing: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """Everything a decision on a pod rests on besides the pod and the runtime's state."""

    now: float
    network_ready: bool = True
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """By container id; absent = no probe has an opinion."""
    waiting: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By container name: the reason and message of a start that failed last time."""
    refused: str = ""
    """What the pod asks for that is not supported, or empty."""


def containers_of(pod: Pod) -> list[dict[str, Any]]:
    """The regular containers of a pod."""
    return list(pod["spec"].get("containers") or [])


def init_containers_of(pod: Pod) -> list[dict[str, Any]]:
    """The init containers of a pod, in order."""
    return list(pod["spec"].get("initContainers") or [])


def ephemeral_containers_of(pod: Pod) -> list[dict[str, Any]]:
    """The containers somebody added to a running pod, to look into it."""
    return list(pod["spec"].get("ephemeralContainers") or [])


def restart_policy(pod: Pod) -> str:
    """`Always`, `OnFailure` or `Never`."""
    return str(pod["spec"].get("restartPolicy") or "Always")


def uid_of(pod: Pod) -> str:
    """The pod's identity."""
    return str(pod["metadata"]["uid"])


def name_of(pod: Pod) -> str:
    """`namespace/name`, for people."""
    return f"{pod['metadata'].get('namespace', 'default')}/{pod['metadata']['name']}"


def deleting(pod: Pod) -> bool:
    """Whether somebody asked for the pod's deletion."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def finished(pod: Pod) -> bool:
    """Whether the API already says that this pod is over for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
