"""Prometheus metrics of a reconciler, by the same names in every agent.

Read next: `nodecore/loop/reconcile.py`, whose outcomes are counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from nodecore.daemon.health import Reply
from nodecore.loop.reconcile import Outcome

disable_created_metrics()  # type: ignore[no-untyped-call]  # the originals have no series beside each counter that says when it began
SYNC_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


def reconcile_observer(
    prefix: str, registry: CollectorRegistry = REGISTRY, labels: Mapping[str, str] | None = None
) -> Callable[[Outcome], None]:
    """Make the metrics `<prefix>_sync_*` with these labels, and return the `on_outcome` of a `Reconciler` that feeds them."""
    names = tuple(labels or ())
    seconds = Histogram(f"{prefix}_sync_duration_seconds", "Time of one pass", names, buckets=SYNC_BUCKETS, registry=registry)
    failures = Counter(f"{prefix}_sync_failures_total", "Passes that failed", names, registry=registry)
    changes = Counter(f"{prefix}_sync_changes_total", "Writes made", names, registry=registry)
    last = Gauge(f"{prefix}_sync_last_timestamp_seconds", "When the last good pass ended", names, registry=registry)
    if labels:
        seconds, failures = seconds.labels(**labels), failures.labels(**labels)
        changes, last = changes.labels(**labels), last.labels(**labels)

    def observe(outcome: Outcome) -> None:
        seconds.observe(outcome.seconds)
        changes.inc(len(outcome.ops))
        if outcome.error:
            failures.inc()
        else:
            last.set_to_current_time()

    return observe


def exposition(registry: CollectorRegistry = REGISTRY) -> Reply:
    """The route for `/metrics`."""
    return Reply(generate_latest(registry).decode(), content_type="text/plain; version=0.0.4; charset=utf-8")
