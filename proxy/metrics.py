"""What is counted, by kube-proxy's names and meanings where it has one.

`Counts` is told of each object that came, of each Service that was worked out, and of each sync; metrics that only one
mode has are there in that mode only. Must not know: HTTP. Read next: `proxy/health.py`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from nodecore.daemon.metrics import SYNC_BUCKETS
from nodecore.kube.objects import EndpointSlice, Service
from nodecore.loop.reconcile import Outcome
from nodecore.net import Family

from .endpoints import service_of
from .snapshot import Route
from .target import Replace, RuleOp, Rules, Sweep, Update

SYNC = "sync_proxy_rules"
TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
LONG_BUCKETS = (*SYNC_BUCKETS[:9], *map(float, (*range(1, 60), *range(60, 120, 5), *range(120, 301, 30))))
NOTHING: tuple[bool, bool] = (False, False)
RESTORE = "iptables_restore_failures", "Syncs that failed"
FAILURES = {  # by what failed: a whole sync, only the writing of what had changed, the removal of what others have left
    "nftables": {"whole": ("nftables_sync_failures", "Syncs that failed"),
                 "cleanup": ("nftables_cleanup_failures", "Failed removals of what is left of other modes")},
    "iptables": {"whole": RESTORE,
                 "partial": ("iptables_partial_restore_failures", "Syncs of what had changed that failed: all is written then")},
    "ipvs": {"whole": RESTORE},
}


class Counts:
    """The metrics of one proxy, and the few values they are made from."""

    def __init__(self, mode: str, registry: CollectorRegistry = REGISTRY, *, verified: bool = False) -> None:
        self.last_good = 0.0  # seconds since 1970 at the end of the last good sync
        self._registry, self._started = registry, time.time()
        self._pending = {"service": 0, "endpoint": 0}
        self._covered = dict(self._pending)  # of those, what the sync that is under way writes
        self._triggered: dict[str, list[float]] = defaultdict(list)  # by Service: when what is not yet written was changed
        self._taken: list[float] = []
        self._without_local: dict[tuple[str, Family], tuple[bool, bool]] = {}
        self._changes = {what: self._counter(f"{SYNC}_{what}_changes", f"Changes of {what}s that came") for what in self._pending}
        self._queued = self._gauge(f"{SYNC}_last_queued_timestamp_seconds", "When the last change came")
        self._last = self._gauge(f"{SYNC}_last_timestamp_seconds", "When the last sync ended")
        self._every, self._full, self._partial = (
            self._histogram(f"sync_{which}proxy_rules_duration_seconds", f"Time of {text} sync")
            for which, text in (("", "a"), ("full_", "a full"), ("partial_", "a partial")))
        self._latency = self._histogram("network_programming_duration_seconds", "From a change to its rules", LONG_BUCKETS)
        self._came_first = self._covered_first = 0.0  # when the oldest change came that is not written, or is being written
        self._verified = self._histogram("verified_programming_duration_seconds", "From a change that came to a packet that "
                                         "took its rules", LONG_BUCKETS) if verified else None
        self._failures = {part: self._counter(f"{SYNC}_{name}", text) for part, (name, text) in FAILURES[mode].items()}
        self._update_failed = False  # in the sync that is under way
        for what in self._pending:
            self._gauge(f"{SYNC}_{what}_changes_pending", f"Changes of {what}s not yet written").set_function(
                partial(self._pending.__getitem__, what))
        local = Gauge(f"kubeproxy_{SYNC}_no_local_endpoints_total", "Services of a Local policy nobody here answers for",
                      ["traffic_policy"], registry=registry)
        for index, policy in enumerate(("internal", "external")):
            local.labels(policy).set_function(partial(self._lacking, index))
        self.probes = Counter("kubeproxy_proxy_healthz", "Answers of /healthz", ["code"], registry=registry)
        self._requests = Counter("rest_client_requests", "Requests to the API, by the code of the answer",
                                 ["code", "host", "method"], registry=registry)
        self.live_probes = Counter("kubeproxy_proxy_livez", "Answers of /livez", ["code"], registry=registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"kubeproxy_{name}", text, registry=self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"kubeproxy_{name}", text, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float] = SYNC_BUCKETS) -> Histogram:
        return Histogram(f"kubeproxy_{name}", text, buckets=buckets, registry=self._registry)

    def services(self, put: Callable[[str, Service | None], None]) -> Callable[[str, Service | None], None]:
        """The same, counted."""

        def counted(key: str, item: Service | None) -> None:
            self._came("service")
            put(key, item)

        return counted

    def slices(self, put: Callable[[str, EndpointSlice | None], None]) -> Callable[[str, EndpointSlice | None], None]:
        """The same, counted, with the time it says its Service's endpoints changed."""

        def counted(key: str, item: EndpointSlice | None) -> None:
            self._came("endpoint")
            moment = triggered(item) if item else 0.0
            if item and moment > self._started:  # an older one tells how long this proxy was not there
                self._triggered[service_of(item)].append(moment)
            put(key, item)

        return counted

    def _came(self, what: str) -> None:
        self._pending[what] += 1
        self._came_first = self._came_first or time.time()
        self._changes[what].inc()
        self._queued.set_to_current_time()

    def asked(self, host: str, method: str, code: str) -> None:
        """The API was asked, and answered so."""
        self._requests.labels(code, host, method).inc()

    def _lacking(self, index: int) -> int:
        return sum(each[index] for each in self._without_local.copy().values())

    def took(self, keys: Iterable[str]) -> None:
        """These Services are being worked out: what came of them until now is written by the sync that is under way."""
        self._covered = dict(self._pending)
        self._covered_first, self._came_first = self._covered_first or self._came_first, 0.0
        for key in keys:
            self._taken += self._triggered.pop(key, ())

    def routed(self, key: str, family: Family, routes: Iterable[Route]) -> None:
        """What a Service came to."""
        lacks = (False, False)
        for route in routes:
            internal = route.port.internal_local and route.cluster.elsewhere
            external = bool(route.local and route.local.elsewhere)
            lacks = lacks[0] or internal, lacks[1] or external
        if lacks == NOTHING:
            self._without_local.pop((key, family), None)
        else:
            self._without_local[(key, family)] = lacks

    def watch(self, rules: Rules) -> None:
        """Publish how many objects are skipped, and be told of what is worked out."""
        rules.counts = self
        self._gauge("skipped_objects", "What the API asks for and this proxy cannot do").set_function(lambda: len(rules.skipped))

    def failed(self, op: RuleOp) -> None:
        """A part of a sync was not done."""
        if isinstance(op, Sweep) and "cleanup" in self._failures:
            self._failures["cleanup"].inc()
        self._update_failed = self._update_failed or isinstance(op, Update)

    def observe(self, outcome: Outcome) -> None:
        """A sync ended."""
        update_failed, self._update_failed = self._update_failed, False
        if outcome.error:
            self._failures["partial" if update_failed and "partial" in self._failures else "whole"].inc()
            return
        self.last_good = time.time()
        self._last.set(self.last_good)
        for what, count in self._covered.items():
            self._pending[what] -= count
        self._covered = dict.fromkeys(self._pending, 0)
        for moment in self._taken:
            self._latency.observe(max(self.last_good - moment, 0.0))
        self._taken.clear()
        if self._verified and self._covered_first:
            self._verified.observe(self.last_good - self._covered_first)
        self._covered_first = 0.0
        if outcome.ops:
            self._every.observe(outcome.seconds)
        if any(isinstance(op, Replace) for op in outcome.ops):
            self._full.observe(outcome.seconds)
        elif any(isinstance(op, Update) for op in outcome.ops):
            self._partial.observe(outcome.seconds)


def triggered(item: EndpointSlice) -> float:
    """When what a slice shows was changed, in seconds since 1970; zero where it does not say."""
    try:
        return datetime.fromisoformat((item.metadata.annotations or {})[TRIGGER]).timestamp()
    except (KeyError, ValueError):
        return 0.0
