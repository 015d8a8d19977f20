"""Eviction: a pod is deleted if its disruption budget allows it, and the budget is told of it in the same step.

The numbers of a budget are its controller's; here one disruption is taken from those it allows. Must not know: HTTP's machinery.
Read next: `subresources.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.kinds.scaling import selector_text
from minik8s.apiserver.request.bodies import decode
from minik8s.apiserver.request.call import Call, now
from minik8s.apiserver.request.selectors import parse_labels
from minik8s.apiserver.request.status import Refused, bad_request
from minik8s.apiserver.verbs.writing import Writer

Object = dict[str, Any]
BUDGETS = BY_PLURAL["poddisruptionbudgets"]
VIOLATES = "Cannot evict pod as it would violate the pod's disruption budget."


async def evict(cluster: Cluster, writer: Writer, call: Call) -> Object:
    """Delete a pod as an eviction asks."""
    options = decode(call.body, call.content).get("deleteOptions") or {}
    if not isinstance(options, dict):
        raise bad_request("deleteOptions is not an object")
    if call.dry:
        options = {**options, "dryRun": ["All"]}
    target = call.target
    pod = await cluster.get(call.kind, target.namespace, target.name)
    if not _needs_no_leave(pod):
        await _ask(cluster, writer, pod, dry=call.dry or bool(options.get("dryRun")))
    await writer.delete(call.kind, target.namespace, target.name, options)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _needs_no_leave(pod: Object) -> bool:
    """A pod that is over, going, or has yet to begin disrupts nothing."""
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Succeeded", "Failed", "Pending") or bool(pod["metadata"].get("deletionTimestamp"))


async def _ask(cluster: Cluster, writer: Writer, pod: Object, *, dry: bool) -> None:
    meta = pod["metadata"]
    cache = cluster.cache(BUDGETS)
    await cache.ready()
    await cache.fresh()
    budgets = [entry.object for entry in cache.snapshot(BUDGETS.folder(meta["namespace"])).entries]
    covering = [budget for budget in budgets if _covers(budget, meta.get("labels") or {})]
    if len(covering) > 1:
        raise Refused(500, "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
    for budget in covering:
        name = budget["metadata"]["name"]
        await writer.alter(BUDGETS, meta["namespace"], name, lambda found: _spent(found, pod), dry=dry)


def _covers(budget: Object, labels: dict[str, str]) -> bool:
    selector = budget["spec"].get("selector")
    return selector is not None and all(term.holds(labels) for term in parse_labels(selector_text(selector)))


def _spent(budget: Object, pod: Object) -> Object:
    """The budget with one disruption less; 429 when there is none left."""
    status, name = budget.setdefault("status", {}), budget["metadata"]["name"]
    allowed, healthy, wanted = (status.get(key) or 0 for key in ("disruptionsAllowed", "currentHealthy", "desiredHealthy"))
    if not _ready(pod) and (budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow" or healthy >= wanted > 0):
        return budget
    if (status.get("observedGeneration") or 0) < (budget["metadata"].get("generation") or 0):
        raise _refused(f"The disruption budget {name} is still being processed by the server.", seconds=10)
    if allowed <= 0:
        raise _refused(f"The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently")
    status["disruptionsAllowed"] = allowed - 1
    status.setdefault("disruptedPods", {})[pod["metadata"]["name"]] = now()
    return budget


def _ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)


def _refused(message: str, *, seconds: int = 0) -> Refused:
    details: Object = {"causes": [{"reason": "DisruptionBudget", "message": message}]}
    if seconds:
        details["retryAfterSeconds"] = seconds
    return Refused(429, VIOLATES, details=details)
