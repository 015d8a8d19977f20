"""What the proxy tells about itself: `/healthz`, `/livez`, `/metrics`, `/proxyMode`, `/configz`, on kube-proxy's ports.

`/healthz` and `/livez` are alike as long as a node that is being removed is no news here. Read next: `nodecore/daemon/health.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from http.server import ThreadingHTTPServer

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from nodecore.daemon import health, metrics
from nodecore.errors import UserError
from nodecore.loop.reconcile import Outcome, Reconciler

from .config import Config, Listen, to_document
from .target import Replace, Rules, Update

log = logging.getLogger(__name__)


def serve(config: Config, reconciler: Reconciler, rules: Rules) -> list[ThreadingHTTPServer]:
    """Start the servers that are asked for."""
    watch_rules(rules)
    servers = []
    if config.healthz:
        alive = partial(_alive, reconciler)
        routes: dict[str, health.Route] = {"/healthz": alive, "/livez": alive}
        servers += _serve(config, config.healthz, routes, "--healthz-bind-address")
    if config.metrics:
        mode = health.Reply(config.mode)
        told = health.Reply(json.dumps({"kubeproxy.config.k8s.io": to_document(config)}), content_type="application/json")
        routes = {"/metrics": metrics.exposition, "/proxyMode": lambda: mode, "/configz": lambda: told,
                  "/healthz": partial(_alive, reconciler)}
        servers += _serve(config, config.metrics, routes, "--metrics-bind-address")
    return servers


def _serve(config: Config, where: Listen, routes: Mapping[str, health.Route], what: str) -> list[ThreadingHTTPServer]:
    try:
        return [health.serve(where.host, where.port, routes, what=what)]
    except UserError as error:
        if config.bind_hard_fail:
            raise
        log.error("%s; going on without", error)
        return []


def _alive(reconciler: Reconciler) -> health.Reply:
    ok = reconciler.healthy
    now = datetime.now(UTC).isoformat()
    body = {"lastUpdated": now if ok else "", "currentTime": now, "nodeEligible": True, "error": reconciler.condition.last_error}
    return health.Reply(json.dumps(body), 200 if ok else 503, "application/json")


def watch_rules(rules: Rules, registry: CollectorRegistry = REGISTRY) -> None:
    """Publish how many objects are skipped."""
    gauge = Gauge("kubeproxy_skipped_objects", "What the API asks for and this proxy cannot do", registry=registry)
    gauge.set_function(lambda: len(rules.skipped))


def observer(registry: CollectorRegistry = REGISTRY) -> Callable[[Outcome], None]:
    """kube-proxy's metrics of a sync, by its names."""
    every, full, part = (
        Histogram(f"kubeproxy_sync_{which}proxy_rules_duration_seconds", f"Time of a {which.strip('_')} sync".replace("  ", " "),
                  buckets=metrics.SYNC_BUCKETS, registry=registry)
        for which in ("", "full_", "partial_")
    )
    last = Gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the last sync ended", registry=registry)
    failures = Counter("kubeproxy_sync_proxy_rules_nftables_sync_failures", "Syncs that failed", registry=registry)

    def observe(outcome: Outcome) -> None:
        if outcome.error:
            failures.inc()
            return
        last.set_to_current_time()
        if outcome.ops:
            every.observe(outcome.seconds)
        if any(isinstance(op, Replace) for op in outcome.ops):
            full.observe(outcome.seconds)
        elif any(isinstance(op, Update) for op in outcome.ops):
            part.observe(outcome.seconds)

    return observe
