"""A pod's READY, STATUS and RESTARTS as kubectl shows them: the most telling reason among its containers wins. Pure.

Read next: `columns.py`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from minik8s.apiserver.schema.age import human, moment

Object = dict[str, Any]


@dataclass
class PodStatus:
    """What is found out while walking over the containers."""

    reason: str
    ready: int = 0
    total: int = 0
    restarts: int = 0
    last_restart: datetime.datetime | None = None

    def count(self, status: Object) -> None:
        """Add a container's restarts, and when the last one was."""
        self.restarts += status.get("restartCount", 0)
        last = (status.get("lastState") or {}).get("terminated") or {}
        ended = moment(last.get("finishedAt"))
        if ended and (self.last_restart is None or ended > self.last_restart):
            self.last_restart = ended

    def restarts_text(self, now: datetime.datetime) -> str:
        """`3 (5m ago)`, or the bare number."""
        if not self.restarts or self.last_restart is None:
            return str(self.restarts)
        return f"{self.restarts} ({human((now - self.last_restart).total_seconds())} ago)"


def pod_status(pod: Object) -> PodStatus:
    """Everything the three columns need."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    found = PodStatus(reason=status.get("reason") or status.get("phase") or "", total=len(spec.get("containers") or ()))
    if _condition(status, "PodScheduled").get("reason") == "SchedulingGated":
        found.reason = "SchedulingGated"
    initializing = _init_containers(found, spec, status)
    if not initializing or _condition(status, "Initialized").get("status") == "True":
        _containers(found, status)
    if pod.get("metadata", {}).get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            found.reason = "Unknown"
        elif status.get("phase") not in ("Succeeded", "Failed"):
            found.reason = "Terminating"
    return found


def _init_containers(found: PodStatus, spec: Object, status: Object) -> bool:
    """Walk the init containers up to the one at work; afterwards only side-cars' restarts count."""
    declared = spec.get("initContainers") or []
    sidecars = {item.get("name") for item in declared if item.get("restartPolicy") == "Always"}
    found.total += len(sidecars)
    kept = PodStatus(reason="")
    for at, one in enumerate(status.get("initContainerStatuses") or []):
        found.count(one)
        sidecar = one.get("name") in sidecars
        if sidecar:
            kept.count(one)
        reason = _init_reason(one, at, len(declared), sidecar=sidecar)
        if reason:
            found.reason = reason
            return True
        found.ready += bool(sidecar and one.get("ready"))
    found.restarts, found.last_restart = kept.restarts, kept.last_restart
    return False


def _init_reason(one: Object, at: int, total: int, *, sidecar: bool) -> str:
    """Why this init container keeps the pod from going on, or an empty string if it does not."""
    state = one.get("state") or {}
    ended, waiting = state.get("terminated"), state.get("waiting") or {}
    if ended is not None and ended.get("exitCode") == 0:
        return ""
    if sidecar and one.get("started"):
        return ""
    if ended is not None:
        return "Init:" + (ended.get("reason") or _exit(ended))
    if waiting.get("reason") and waiting["reason"] != "PodInitializing":
        return f"Init:{waiting['reason']}"
    return f"Init:{at}/{total}"


def _containers(found: PodStatus, status: Object) -> None:
    running = False
    for one in reversed(status.get("containerStatuses") or []):
        found.count(one)
        state = one.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting") or {}
        if waiting.get("reason"):
            found.reason = waiting["reason"]
        elif ended is not None:
            found.reason = ended.get("reason") or _exit(ended)
        elif one.get("ready") and state.get("running") is not None:
            running = True
            found.ready += 1
    if found.reason == "Completed" and running:
        found.reason = "Running" if _condition(status, "Ready").get("status") == "True" else "NotReady"


def _exit(ended: Object) -> str:
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"


def _condition(status: Object, kind: str) -> Object:
    return next((item for item in status.get("conditions") or [] if item.get("type") == kind), {})
