"""The core group's ComponentStatuses, made up when they are asked for: etcd's members, and who leads the cluster.

A member is well if it answers and knows a leader. Scheduler and controllers may run anywhere, as many as one likes: they are well
while one of them renews the Lease it works under. Must not know: HTTP. Read next: `reading.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.request.call import Answer, Call
from minik8s.apiserver.request.status import Refused, not_found
from minik8s.apiserver.storage.objects import encode
from minik8s.apiserver.verbs import reading
from minik8s.apiserver.verbs.paging import Page, matcher_of
from nodecore.errors import Fault
from nodecore.etcd.client import EtcdClient

Object = dict[str, Any]
LED = {"controller-manager": "kube-controller-manager", "scheduler": "kube-scheduler"}
SECONDS = 2.0


async def read(cluster: Cluster, call: Call) -> Answer:
    """Get or list."""
    found = [*await asyncio.gather(*(_led(cluster, name, lease) for name, lease in LED.items())), *await _members(cluster)]
    if call.verb == "list":
        matches = matcher_of(call)
        shown = [encode(obj) for obj in found if matches is None or matches(obj)]
        return await reading.listed(call, Page(shown, await cluster.etcd.revision()))
    for obj in found:
        if obj["metadata"]["name"] == call.target.name:
            return reading.shown(call, obj)
    raise not_found(call.kind.resource.plural, "", call.target.name)


def verdict(name: str, error: str) -> Object:
    """The object for a component that is well, or not."""
    condition = {"type": "Healthy", "status": "False" if error else "True", **({"error": error} if error else {"message": "ok"})}
    return {"apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name}, "conditions": [condition]}


def lapsed(lease: Object, now: datetime) -> str:
    """Why nobody works under this Lease; empty if somebody does."""
    spec = lease.get("spec") or {}
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    if not holder or not renewed:
        return "nobody holds its Lease"
    until = datetime.fromisoformat(renewed.replace("Z", "+00:00")) + timedelta(seconds=spec.get("leaseDurationSeconds") or 15)
    return "" if now <= until else f"{holder} has not renewed its Lease since {renewed}"


async def _led(cluster: Cluster, name: str, lease: str) -> Object:
    try:
        found = await cluster.get(BY_PLURAL["leases"], "kube-system", lease)
    except Refused as refused:
        return verdict(name, str(refused))
    return verdict(name, lapsed(found, datetime.now(UTC)))


async def _members(cluster: Cluster) -> list[Object]:
    asked = (_member(cluster, endpoint) for endpoint in cluster.etcd.config.endpoints)
    return [verdict(f"etcd-{number}", error) for number, error in enumerate(await asyncio.gather(*asked))]


async def _member(cluster: Cluster, endpoint: str) -> str:
    try:
        async with asyncio.timeout(SECONDS), EtcdClient(replace(cluster.etcd.config, endpoints=(endpoint,))) as client:
            return "" if (await client.status()).leader else f"{endpoint} knows no leader"
    except Fault as error:
        return str(error)
    except TimeoutError:
        return f"{endpoint} has not answered in {SECONDS:g} s"
