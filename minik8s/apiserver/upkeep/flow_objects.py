"""The FlowSchemas and PriorityLevelConfigurations that every cluster has, and what their status says.

    exempt, catch-all      the mandatory ones: put back as they were when somebody changes their spec
    all others             suggested: the same, unless their annotation says that they are somebody's own

They say who would be served first. This server gives out its seats otherwise (`../request/seats.py`), so they are stored and
shown, and whoever writes one is told. A FlowSchema whose level is not there has the condition `Dangling`.
Must not know: HTTP. Read next: `default_objects.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from minik8s.apiserver.admission.asked import every
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.kinds.initial import dangling
from minik8s.apiserver.request.call import now
from minik8s.apiserver.upkeep.changes import after_every_change
from minik8s.apiserver.verbs.writing import Writer

Object = dict[str, Any]
AUTOUPDATE = "apf.kubernetes.io/autoupdate-spec"
MANDATORY = ("exempt", "catch-all")
LEVELS = {  # shares, how much may be lent in per cent, queues, a hand of them
    "catch-all": (5, 0, 0, 0), "system": (30, 33, 64, 6), "node-high": (40, 25, 64, 6), "leader-election": (10, 0, 16, 4),
    "workload-high": (40, 50, 128, 6), "workload-low": (100, 90, 128, 6), "global-default": (20, 50, 128, 6),
}
QUEUE_LENGTH = 50
ANYBODY = ("Group system:unauthenticated", "Group system:authenticated")
MANAGER, SCHEDULER = "User system:kube-controller-manager", "User system:kube-scheduler"
KUBE_SYSTEM, ENDPOINTS, MIRRORING = (f"ServiceAccount kube-system/{name}" for name in (
    "*", "endpoint-controller", "endpointslicemirroring-controller"))
WHOLE = ("* | * | *", "* | *")
LEASES = ("get create update | coordination.k8s.io | leases | namespaces",)
FLOWS: dict[str, tuple[str, int, tuple[str, ...], tuple[str, ...]]] = {  # level, precedence, who, what
    "exempt": ("exempt", 1, ("Group system:masters",), WHOLE),
    "probes": ("exempt", 2, ANYBODY, ("get | /healthz /readyz /livez",)),
    "system-leader-election": ("leader-election", 100, (MANAGER, SCHEDULER, KUBE_SYSTEM), LEASES),
    "endpoint-controller": ("workload-high", 150, (MANAGER, ENDPOINTS, MIRRORING), (
        "get create update | core | endpoints | namespaces",)),
    "workload-leader-election": ("leader-election", 200, (KUBE_SYSTEM,), LEASES),
    "system-node-high": ("node-high", 400, ("Group system:nodes",), (
        "* | core | nodes nodes/status", "* | coordination.k8s.io | leases | namespaces")),
    "system-nodes": ("system", 500, ("Group system:nodes",), WHOLE),
    "kube-controller-manager": ("workload-high", 800, (MANAGER,), WHOLE),
    "kube-scheduler": ("workload-high", 800, (SCHEDULER,), WHOLE),
    "kube-system-service-accounts": ("workload-high", 900, (KUBE_SYSTEM,), WHOLE),
    "service-accounts": ("workload-low", 9000, ("Group system:serviceaccounts",), WHOLE),
    "global-default": ("global-default", 9900, ANYBODY, WHOLE),
    "catch-all": ("catch-all", 10000, ANYBODY, WHOLE),
}


def level(name: str) -> Object:
    """One of the PriorityLevelConfigurations."""
    if name == "exempt":
        return _object("PriorityLevelConfiguration", name, {
            "type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})
    shares, lendable, queues, hand = LEVELS[name]
    queuing = {"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH}
    response = {"type": "Queue", "queuing": queuing} if queues else {"type": "Reject"}
    return _object("PriorityLevelConfiguration", name, {"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}})


def flow(name: str) -> Object:
    """One of the FlowSchemas."""
    wanted, precedence, who, what = FLOWS[name]
    rule: Object = {"subjects": [_subject(each) for each in who]}
    for text in what:
        key, found = _rule(text)
        rule.setdefault(key, []).append(found)
    spec = {"priorityLevelConfiguration": {"name": wanted}, "matchingPrecedence": precedence, "rules": [rule]}
    if wanted != "exempt":
        spec["distinguisherMethod"] = {"type": "ByUser"}
    return _object("FlowSchema", name, spec)


def _object(kind: str, name: str, spec: Object) -> Object:
    annotations = {AUTOUPDATE: "true"}
    return {"kind": kind, "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "metadata": {"name": name, "annotations": annotations},
            "spec": spec}


def _subject(text: str) -> Object:
    kind, _, name = text.partition(" ")
    space, _, account = name.partition("/")
    inner = {"namespace": space, "name": account} if kind == "ServiceAccount" else {"name": name}
    return {"kind": kind, kind[0].lower() + kind[1:]: inner}


def _rule(text: str) -> tuple[str, Object]:
    """`verbs | group | resources` of everything there is, `... | namespaces` of what is in one, `verbs | paths`."""
    verbs, *rest = (part.split() for part in text.split(" | "))
    if len(rest) == 1:
        return "nonResourceRules", {"verbs": verbs, "nonResourceURLs": rest[0]}
    groups = ["" if group == "core" else group for group in rest[0]]
    found: Object = {"verbs": verbs, "apiGroups": groups, "resources": rest[1], "namespaces": ["*"]}
    return "resourceRules", found if len(rest) == 3 else {**found, "clusterScope": True}


def wanted_objects() -> Iterator[tuple[str, Object]]:
    """All of them, by plural, levels before those that name them."""
    yield from (("prioritylevelconfigurations", level(name)) for name in ("exempt", *LEVELS))
    yield from (("flowschemas", flow(name)) for name in FLOWS)


def mended(there: Object, wanted: Object) -> Object | None:
    """The object with the spec it should have; None when it has, or when that is no more our affair."""
    own = (there["metadata"].get("annotations") or {}).get(AUTOUPDATE) != "true"
    if there.get("spec") == wanted["spec"] or (own and wanted["metadata"]["name"] not in MANDATORY):
        return None
    return {**there, "spec": wanted["spec"]}


async def ensure_flows(cluster: Cluster) -> None:
    """Make what is missing, put back what was changed."""
    writer = Writer(cluster)

    async def one(plural: str, wanted: Object) -> None:
        await writer.ensure(BY_PLURAL[plural], "", wanted, lambda there: mended(there, wanted))

    async with asyncio.TaskGroup() as group:
        for plural, wanted in wanted_objects():
            group.create_task(one(plural, wanted))


def with_condition(schema: Object, levels: set[str], stamp: str) -> Object | None:
    """The FlowSchema whose status says whether its level is there; None when it says so already."""
    new = dangling(schema, missing=schema["spec"]["priorityLevelConfiguration"]["name"] not in levels)
    status = schema.get("status") or {}
    conditions: list[Object] = status.get("conditions") or []
    others = [each for each in conditions if each.get("type") != "Dangling"]
    before = next((each for each in conditions if each.get("type") == "Dangling"), Object())
    if all(before.get(key) == value for key, value in new.items()):
        return None
    new["lastTransitionTime"] = before.get("lastTransitionTime", stamp) if before.get("status") == new["status"] else stamp
    return {**schema, "status": {**status, "conditions": [*others, new]}}


async def keep_conditions(cluster: Cluster) -> None:
    """After every change of a FlowSchema or a level, for ever."""
    writer = Writer(cluster)
    await after_every_change(cluster, ("flowschemas", "prioritylevelconfigurations"), lambda: _write_conditions(cluster, writer),
                             what="status of flow schemas")


async def _write_conditions(cluster: Cluster, writer: Writer) -> None:
    levels, stamp = {each["metadata"]["name"] for each in every(cluster, "prioritylevelconfigurations")}, now()
    for schema in every(cluster, "flowschemas"):
        if with_condition(schema, levels, stamp):
            await writer.alter(BY_PLURAL["flowschemas"], "", schema["metadata"]["name"],
                               lambda there: with_condition(there, levels, stamp) or there)
