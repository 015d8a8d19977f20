"""What the daemon counts besides its reconcilers' passes.

Counting needs no library: where nobody asks for metrics, none is imported. Read next: `nodecore/daemon/metrics.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodecore.loop.reconcile import Outcome

_counts = {"lease_lost": 0, "healed": 0}


@dataclass(frozen=True, slots=True)
class State:
    """How the daemon is at one moment; `lease_ends` is on the monotonic clock."""

    backend: str
    lease_ends: float | None = None
    peers: Mapping[str, int] = field(default_factory=dict)  # by their backend
    records: Mapping[str, int] = field(default_factory=dict)  # what the kernel was made to hold, by kind


def lease_lost() -> None:
    """Our lease was revoked, stolen or had ended."""
    _counts["lease_lost"] += 1


def counts() -> dict[str, int]:
    """Everything counted so far."""
    return dict(_counts)


class Healing:
    """Counts what a reconciler wrote though nothing it was told had changed: somebody else had changed the kernel."""

    def __init__(self) -> None:
        self._before: object = None

    def passed(self, outcome: Outcome, told: object) -> None:
        """A pass ended; `told` is what it was for."""
        if not outcome.error and told == self._before:
            _counts["healed"] += len(outcome.ops)
        self._before = None if outcome.error else told


class Collector:
    """A collector of prometheus_client's kind, which asks for the state whenever it is asked."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state

    def collect(self) -> Iterable[Any]:
        """The metrics."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        state = self._state()
        for name, value, what in (
            ("lease_lost", _counts["lease_lost"], "Times our lease was revoked, stolen or had ended, and was taken back"),
            ("healed", _counts["healed"], "Writes that undid what somebody else had done"),
        ):
            counter = CounterMetricFamily(f"flanneld_{name}", what, labels=["backend"])
            counter.add_metric([state.backend], value)
            yield counter
        if state.lease_ends is not None:
            expiry = GaugeMetricFamily("flanneld_lease_expiry_timestamp_seconds", "When our lease ends", labels=["backend"])
            expiry.add_metric([state.backend], time.time() + state.lease_ends - time.monotonic())
            yield expiry
        peers = GaugeMetricFamily("flanneld_peers", "Leases of others, by their backend", labels=["backend"])
        for backend, number in state.peers.items():
            peers.add_metric([backend], number)
        yield peers
        records = GaugeMetricFamily("flanneld_programmed", "What the kernel is made to hold", labels=["backend", "kind"])
        for kind, number in state.records.items():
            records.add_metric([state.backend, kind], number)
        yield records


def observe(prefix: str, state: Callable[[], State]) -> tuple[Callable[[Outcome], None], Callable[[Outcome], None]]:
    """Register everything; returns what counts the passes of the network's and of the rules' reconciler."""
    from prometheus_client import REGISTRY

    from nodecore.daemon.metrics import reconcile_observer

    REGISTRY.register(Collector(state))
    labels = {"backend": state().backend}
    return reconcile_observer(prefix, labels=labels), reconcile_observer(f"{prefix}_rules", labels=labels)
