"""Keeps the default policy there: what is missing is made, rules and subjects that are missing are added.

What somebody added stays; an object with the annotation `.../autoupdate: "false"` is left alone. Aggregating roles are
filled whenever a role changes. Must not know: HTTP. Read next: `../auth/policy.py`, `../auth/rbac.py`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from minik8s.apiserver.auth.policy import AUTOUPDATE, default_policy
from minik8s.apiserver.auth.rbac import aggregated, rules_of, uncovered
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL, Kind
from minik8s.apiserver.request.status import Refused
from minik8s.apiserver.schema.patch import clone
from minik8s.apiserver.verbs.writing import Writer
from nodecore.errors import Fault

log = logging.getLogger(__name__)
Object = dict[str, Any]
AT_ONCE = 20
PLURALS = {"ClusterRole": "clusterroles", "Role": "roles", "ClusterRoleBinding": "clusterrolebindings",
           "RoleBinding": "rolebindings"}


async def ensure_policy(cluster: Cluster) -> None:
    """Make the default policy hold."""
    writer, room = Writer(cluster), asyncio.Semaphore(AT_ONCE)

    async def one(wanted: Object) -> None:
        async with room:
            kind, namespace = BY_PLURAL[PLURALS[wanted["kind"]]], wanted["metadata"].get("namespace", "")
            await writer.ensure(kind, namespace, wanted, lambda there: mended(there, wanted))

    async with asyncio.TaskGroup() as group:
        for wanted in default_policy():
            group.create_task(one(wanted))
    await aggregate(cluster)
    for plural in PLURALS.values():
        await cluster.cache(BY_PLURAL[plural]).fresh()


def mended(there: Object, wanted: Object) -> Object | None:
    """The object with everything wanted in it; None when that is so already."""
    meta = there["metadata"]
    if (meta.get("annotations") or {}).get(next(iter(AUTOUPDATE))) == "false" or there.get("roleRef") != wanted.get("roleRef"):
        return None
    new = clone(there)
    for field in ("labels", "annotations"):
        new["metadata"][field] = {**(meta.get(field) or {}), **wanted["metadata"][field]}
    if "aggregationRule" in wanted:
        new["aggregationRule"] = there.get("aggregationRule") or wanted["aggregationRule"]
    elif "rules" in wanted:
        missing = [rule for rule in wanted["rules"] if uncovered(rules_of(there), rules_of({"rules": [rule]}))]
        new["rules"] = [*(there.get("rules") or []), *missing]
    else:
        subjects = there.get("subjects") or []
        new["subjects"] = [*subjects, *(each for each in wanted["subjects"] if each not in subjects)]
    return None if new == there else new


async def aggregate(cluster: Cluster) -> None:
    """Fill the aggregating roles from those they select, until nothing changes any more."""
    kind, writer = BY_PLURAL["clusterroles"], Writer(cluster)
    await cluster.cache(kind).fresh()
    for _ in range(5):
        roles = [entry.object for entry in cluster.cache(kind).snapshot().entries]
        changed = False
        for role in roles:
            wanted = aggregated(role, roles)
            if wanted is not None and wanted != (role.get("rules") or []):
                await _fill(writer, kind, role["metadata"]["name"], wanted)
                changed = True
        if not changed:
            return
        await cluster.cache(kind).fresh()


async def _fill(writer: Writer, kind: Kind, name: str, rules: list[Object]) -> None:
    def alter(role: Object) -> Object:
        role["rules"] = rules
        return role

    try:
        await writer.alter(kind, "", name, alter)
    except Refused as refused:
        if refused.code != 404:
            raise


async def aggregate_for_ever(cluster: Cluster) -> None:
    """Fill the aggregating roles after every change of a role."""
    cache = cluster.cache(BY_PLURAL["clusterroles"])
    await cache.ready()
    seen = -1
    while True:
        if cache.window.end == seen:
            await cache.changed()
            continue
        seen = cache.window.end
        try:
            await aggregate(cluster)
        except Fault as fault:
            log.warning("aggregated roles: %s", fault)
            seen = -1
            await asyncio.sleep(1)
