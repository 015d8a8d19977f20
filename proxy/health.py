"""What the proxy tells about itself: `/healthz`, `/livez`, `/metrics`, `/proxyMode`, `/configz`, `/rules`, on kube-proxy's ports.

`/healthz` is for load balancers: a node that is about to be removed says 503 there, so that nobody sends it more; `/livez`
is for whoever would restart this proxy, which that would not help (KEP-3836). Read next: `nodecore/daemon/health.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import REGISTRY, Counter
from prometheus_client.registry import Collector

from nodecore.daemon import health, metrics
from nodecore.errors import UserError
from nodecore.kube.objects import Node
from nodecore.loop.reconcile import Reconciler

from .config import Config, Listen, to_document
from .connections import Connections
from .metrics import Counts
from .modes import layouts
from .names import TRAFFIC_TABLE
from .target import Rules
from .traffic import ServerTraffic, Traffic

GOING = "ToBeDeletedByClusterAutoscaler"  # the taint of a node that is about to be removed
JSON = "application/json"
log = logging.getLogger(__name__)


@dataclass
class Eligibility:
    """Whether load balancers should send more to this node; what is not known of the Node does not count against it."""

    node: bool = True

    def put(self, node: Node | None) -> None:
        """Take our Node as it is now."""
        self.node = node is None or not (
            node.metadata.deletion_timestamp or any(taint.key == GOING for taint in node.spec.taints or []))


def serve(
    config: Config, reconciler: Reconciler, rules: Rules, counts: Counts, eligible: Eligibility, writer: Any,
) -> list[ThreadingHTTPServer]:
    """Start the servers that are asked for."""
    servers = []
    for collector in collectors(config, rules, writer):
        REGISTRY.register(collector)

    def healthz() -> health.Reply:
        return _alive(reconciler, counts, counts.probes, eligible)

    if config.healthz:
        routes: dict[str, health.Route] = {"/healthz": healthz, "/livez": lambda: _alive(reconciler, counts, counts.live_probes)}
        servers += _serve(config, config.healthz, routes, "--healthz-bind-address")
    if config.metrics:
        mode = health.Reply(config.mode)
        told = health.Reply(json.dumps({"kubeproxy.config.k8s.io": to_document(config)}), content_type=JSON)
        routes = {"/metrics": metrics.exposition, "/proxyMode": lambda: mode, "/configz": lambda: told, "/healthz": healthz}
        queries = {"/rules": lambda asked: _rules(rules, asked.get("service", ""))}
        servers += _serve(config, config.metrics, routes, "--metrics-bind-address", queries)
    return servers


def collectors(config: Config, rules: Rules, writer: Any) -> list[Collector]:
    """What is read when somebody asks: what only a mode has, and what counts traffic in it."""
    if config.mode == "iptables":
        from .chain_metrics import ChainMetrics

        counting = [Traffic(rules, TRAFFIC_TABLE), Connections(rules)] if config.traffic_metrics else []
        return [ChainMetrics(writer, layouts(config)), *counting]
    if not config.traffic_metrics:
        return []
    return [ServerTraffic(rules) if config.mode == "ipvs" else Traffic(rules)]


def _serve(config: Config, where: Listen, routes: Mapping[str, health.Route], what: str,
           queries: Mapping[str, health.Query] = health.NONE) -> list[ThreadingHTTPServer]:
    try:
        return [health.serve(where.host, where.port, routes, what=what, queries=queries)]
    except UserError as error:
        if config.bind_hard_fail:
            raise
        log.error("%s; going on without", error)
        return []


def _alive(reconciler: Reconciler, counts: Counts, probes: Counter, eligible: Eligibility | None = None) -> health.Reply:
    ok = reconciler.healthy and (eligible is None or eligible.node)
    now = datetime.now(UTC)
    last = now if ok else datetime.fromtimestamp(counts.last_good, UTC)
    body: dict[str, object] = {"lastUpdated": last.isoformat(), "currentTime": now.isoformat()}
    if eligible:
        body["nodeEligible"] = eligible.node
    if reconciler.condition.last_error:
        body["error"] = reconciler.condition.last_error
    status = 200 if ok else 503
    probes.labels(str(status)).inc()
    return health.Reply(json.dumps(body), status, JSON)


def _rules(rules: Rules, service: str) -> health.Reply:
    """Of one Service, if one is named; 404 where nothing is known of it."""
    told = programmed(rules, service)
    known = told["services"] or told["skipped"] or not service
    return health.Reply(json.dumps(told, indent=1) + "\n", 200 if known else 404, JSON)


def programmed(rules: Rules, service: str = "") -> Mapping[str, object]:
    """What is in the packet filter for which Service, or for one of them, and whether it is all written."""
    services: dict[str, dict[str, dict[str, list[str]]]] = {}
    for family, ledger in rules.ledgers().items():
        for owner, fragment in ledger.held():
            if service not in ("", owner):
                continue
            parts = services.setdefault(owner, {}).setdefault(f"IPv{family.value}", {})
            parts[fragment.claim] = [f"{item.container}: {item.key}" + (f" : {item.value}" if item.value else "")
                                     for item in fragment.elements]
    skipped = [{"kind": item.kind, "object": item.key, "reason": item.reason} for item in rules.skipped
               if service in ("", item.key)]
    return {"services": services, "skipped": skipped, "written": rules.settled}
