"""What is there before anybody made it: four namespaces, the Service `kubernetes` with the way to this server, the range its
address is of, the two priorities of the system, and the priority levels of requests.

Made at the start and looked after from then on. Must not know: HTTP. Read next: `flow_objects.py`, `../verbs/writing.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.schema.patch import clone
from minik8s.apiserver.upkeep.flow_objects import ensure_flows
from minik8s.apiserver.verbs.writing import Writer
from nodecore.errors import Fault
from nodecore.net import Family, IPAddress

log = logging.getLogger(__name__)
Object = dict[str, Any]
NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
PERIOD = 60.0
NAME = "kubernetes"


@dataclass(frozen=True, slots=True)
class Advertised:
    """Where others reach this server, and the address of the Service in front of it."""

    address: IPAddress
    port: int
    service: IPAddress
    ranges: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As `host:port`."""
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


def service(where: Advertised) -> Object:
    """The Service `kubernetes`."""
    ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": where.port}]
    return {**_head("Service", "v1", {"component": "apiserver", "provider": "kubernetes"}),
            "spec": {"clusterIP": str(where.service), "ports": ports, "sessionAffinity": "None", "type": "ClusterIP"}}


def endpoints(where: Advertised) -> Object:
    """Its Endpoints."""
    ports = [{"name": "https", "port": where.port, "protocol": "TCP"}]
    labels = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    return {**_head("Endpoints", "v1", labels), "subsets": [{"addresses": [{"ip": str(where.address)}], "ports": ports}]}


def endpoint_slice(where: Advertised) -> Object:
    """Its EndpointSlice."""
    ports = [{"name": "https", "port": where.port, "protocol": "TCP"}]
    family = "IPv4" if Family.of(where.address) is Family.IPV4 else "IPv6"
    return {**_head("EndpointSlice", "discovery.k8s.io/v1", {"kubernetes.io/service-name": NAME}), "addressType": family,
            "endpoints": [{"addresses": [str(where.address)], "conditions": {"ready": True}}], "ports": ports}


def service_range(where: Advertised) -> Object:
    """The ServiceCIDR of the ranges on the command line."""
    return {"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": {"name": NAME},
            "spec": {"cidrs": list(where.ranges)}}


def priorities() -> list[Object]:
    """The classes of what the cluster and its nodes cannot do without."""
    words = "Used for system critical pods that must {}."
    return [{"kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1", "metadata": {"name": name}, "value": value,
             "description": words.format(said)}
            for name, value, said in (
                ("system-node-critical", 2_000_001_000, "not be moved from their current node"),
                ("system-cluster-critical", 2_000_000_000, "run in the cluster, but can be moved to another node if necessary"))]


def _head(kind: str, version: str, labels: dict[str, str]) -> Object:
    return {"kind": kind, "apiVersion": version, "metadata": {"name": NAME, "namespace": "default", "labels": labels}}


async def ensure(cluster: Cluster, where: Advertised) -> None:
    """Make what is missing and mend what is wrong."""
    writer = Writer(cluster)
    namespaces = ({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}} for name in NAMESPACES)
    for plural, namespace, obj, fields in (
        *(("namespaces", "", each, ()) for each in namespaces),
        *(("priorityclasses", "", each, ()) for each in priorities()),
        ("servicecidrs", "", service_range(where), ()),
        ("services", "default", service(where), ("ports",)),
        ("endpoints", "default", endpoints(where), ("subsets",)),
        ("endpointslices", "default", endpoint_slice(where), ("endpoints", "ports")),
    ):
        await writer.ensure(BY_PLURAL[plural], namespace, obj, partial(mended, wanted=obj, fields=fields))
    await ensure_flows(cluster)


def mended(there: Object, wanted: Object, fields: tuple[str, ...]) -> Object | None:
    """The object with these fields as wanted; None when they are."""
    new = clone(there)
    part, right = (new["spec"], wanted["spec"]) if wanted["kind"] == "Service" else (new, wanted)
    part.update({field: right[field] for field in fields})
    return None if new == there else new


async def look_after(cluster: Cluster, where: Advertised, more: Callable[[Cluster], Awaitable[None]],
                     done: Callable[[], None]) -> None:
    """Ensure them as soon as the caches are there, then now and again; `more` once; `done` is called after each good pass."""
    first = True
    await cluster.ready()
    await cluster.settled.wait()
    while True:
        try:
            await ensure(cluster, where)
            if first:
                await more(cluster)
                first = False
            done()
            pause = PERIOD
        except* Fault as fault:
            log.warning("default objects: %s", "; ".join(map(str, fault.exceptions)))
            pause = 1.0
        await asyncio.sleep(pause)
