"""Runs the probes of every running container, one task each, and keeps their verdicts.

`watch` is called with what runs now; tasks start and end by it. A verdict that changes calls `on_change(uid)`.
Must not know: what a verdict leads to. Read next: `minik8s/kubelet/probe_state.py`, `minik8s/kubelet/handlers.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .cri import Runtime
from .handlers import Outcome, handle
from .probe_state import KINDS, LIVENESS, READINESS, STARTUP, Count, Timing, first_count, verdict
from .records import RUNNING, Actual, Container, Pod, Verdict, containers_of, deleting, uid_of

Report = Callable[[Pod, str, str], None]


@dataclass
class _Watched:
    pod: Pod
    run: Container
    ip: str
    counts: dict[str, Count]
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)


@dataclass
class Prober:
    """The probes of this node."""

    runtime: Runtime
    on_change: Callable[[str], None]
    on_failure: Report
    _watched: dict[str, _Watched] = field(default_factory=dict)

    def watch(self, pod: Pod, actual: Actual, pod_ip: str) -> None:
        """Probe exactly the containers of this pod that run now."""
        uid = uid_of(pod)
        wanted: set[str] = set()
        for spec in containers_of(pod):
            run = actual.latest(spec["name"])
            if run and run.state == RUNNING and any(spec.get(kind) for kind in KINDS):
                wanted.add(run.id)
                self._begin(pod, spec, run, pod_ip)
        for key, item in list(self._watched.items()):
            if uid_of(item.pod) == uid and key not in wanted:
                self._end(key)

    def forget(self, uid: str) -> None:
        """Stop every probe of a pod."""
        for key, item in list(self._watched.items()):
            if uid_of(item.pod) == uid:
                self._end(key)

    def verdicts(self, pod: Pod) -> dict[str, Verdict]:
        """What the probes say, by container id."""
        return {key: verdict(item.run.name, item.counts) for key, item in self._watched.items()
                if uid_of(item.pod) == uid_of(pod)}

    def _begin(self, pod: Pod, spec: Mapping[str, Any], run: Container, pod_ip: str) -> None:
        item = self._watched.get(run.id)
        if item is None:
            told: dict[str, Any] = next((entry for entry in (pod.get("status") or {}).get("containerStatuses") or []
                         if entry.get("containerID", "").endswith(run.id)), {})
            counts = {kind: first_count(kind, was_ready=bool(told.get("ready")), was_started=bool(told.get("started")))
                      for kind in KINDS if spec.get(kind)}
            item = self._watched[run.id] = _Watched(pod, run, pod_ip, counts)
            for kind in counts:
                item.tasks[kind] = asyncio.create_task(self._probe(item, kind, spec), name=f"{kind} of {run.name}")
        item.pod, item.ip = pod, pod_ip or item.ip

    def _end(self, key: str) -> None:
        for task in self._watched.pop(key).tasks.values():
            task.cancel()

    async def _probe(self, item: _Watched, kind: str, spec: Mapping[str, Any]) -> None:
        probe, timing = spec[kind], Timing.of(spec[kind])
        await asyncio.sleep(max(0.0, item.run.started + timing.delay - time.time()))
        while True:
            if self._due(item, kind):
                outcome = await handle(self.runtime, probe, spec, item.run, item.ip, timing.timeout)
                self._count(item, kind, timing, outcome)
                if kind == STARTUP and item.counts[STARTUP].holds:
                    return
                await asyncio.sleep(timing.period)
            else:
                await asyncio.sleep(min(timing.period, 0.5))

    def _due(self, item: _Watched, kind: str) -> bool:
        startup = item.counts.get(STARTUP)
        if kind != STARTUP and startup and not startup.holds:
            return False
        return kind == READINESS or not deleting(item.pod)

    def _count(self, item: _Watched, kind: str, timing: Timing, outcome: Outcome) -> None:
        before = verdict(item.run.name, item.counts)
        item.counts[kind] = item.counts[kind].after(timing, ok=outcome.ok, message=outcome.message)
        if not outcome.ok:
            words = {LIVENESS: "Liveness", READINESS: "Readiness", STARTUP: "Startup"}[kind]
            self.on_failure(item.pod, item.run.name, f"{words} probe failed: {outcome.message}")
        if verdict(item.run.name, item.counts) != before:
            self.on_change(uid_of(item.pod))
