"""How a row of probe outcomes becomes a verdict: thresholds counted, pure.

Read next: `minik8s/kubelet/probes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .records import Verdict

READINESS, LIVENESS, STARTUP = "readinessProbe", "livenessProbe", "startupProbe"
KINDS = (STARTUP, READINESS, LIVENESS)


@dataclass(frozen=True, slots=True)
class Timing:
    """A probe's numbers, with Kubernetes' defaults."""

    delay: float
    period: float
    timeout: float
    successes: int
    failures: int

    @classmethod
    def of(cls, probe: Mapping[str, Any]) -> Timing:
        """Read a Probe."""
        return cls(
            float(probe.get("initialDelaySeconds") or 0), float(probe.get("periodSeconds") or 10),
            float(probe.get("timeoutSeconds") or 1), int(probe.get("successThreshold") or 1),
            int(probe.get("failureThreshold") or 3),
        )


@dataclass(frozen=True, slots=True)
class Count:
    """The outcomes of one probe so far: how many alike in a row, and what holds because of them."""

    holds: bool
    row: int = 0
    last: bool | None = None
    condemned: str = ""

    def after(self, timing: Timing, *, ok: bool, message: str) -> Count:
        """The count with one more outcome."""
        row = self.row + 1 if self.last is ok else 1
        counted = replace(self, row=row, last=ok)
        if ok:
            return replace(counted, holds=self.holds or row >= timing.successes, condemned="")
        if row >= timing.failures:
            return replace(counted, holds=False, condemned=message or "no reason given")
        return counted


def first_count(kind: str, *, was_ready: bool, was_started: bool) -> Count:
    """Where a probe starts from: alive until shown otherwise, unready unless the API already says ready."""
    return Count({LIVENESS: True, READINESS: was_ready, STARTUP: was_started}[kind])


def verdict(name: str, counts: Mapping[str, Count]) -> Verdict:
    """What all the probes of a container say together."""
    startup, ready, alive = counts.get(STARTUP), counts.get(READINESS), counts.get(LIVENESS)
    failing = ""
    if startup and not startup.holds and startup.condemned:
        failing = f"Container {name} failed startup probe: {startup.condemned}"
    elif alive and alive.condemned:
        failing = f"Container {name} failed liveness probe: {alive.condemned}"
    return Verdict(started=startup.holds if startup else True, ready=ready.holds if ready else True, failing=failing)
