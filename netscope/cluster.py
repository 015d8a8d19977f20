"""The cluster's objects, read from its API in one go: nodes, pods, Services with the endpoints behind them, policies.

Read next: `netscope/scene.py`.
"""

from __future__ import annotations

from typing import Any

from netscope.directory import Directory
from netscope.policies import NetworkPolicy
from netscope.scene import Objects, directory_of
from nodecore.errors import Denied, NotFound
from nodecore.kube import resource as r
from nodecore.kube.client import KubeClient
from nodecore.kube.config import load
from nodecore.kube.objects import EndpointSlice, Node, Service
from nodecore.kube.workload import Anything, Pod

POLICIES = r.Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")


async def read(kubeconfig: str) -> Directory:
    """Everybody who has an address."""
    return directory_of(await read_objects(kubeconfig))


async def read_objects(kubeconfig: str) -> Objects:
    """All of them; policies and namespaces only where they may be read."""
    async with KubeClient(load(kubeconfig), user_agent="netscope") as client:
        async def items(resource: r.Resource, kind: Any) -> Any:
            return tuple((await client.list(resource, into=kind)).items)

        async def perhaps(resource: r.Resource, kind: Any) -> Any:
            try:
                return await items(resource, kind)
            except (Denied, NotFound):
                return ()

        return Objects(
            await items(r.NODES, Node), await items(r.PODS, Pod), await items(r.SERVICES, Service),
            await items(r.ENDPOINT_SLICES, EndpointSlice), await perhaps(POLICIES, NetworkPolicy),
            await perhaps(r.NAMESPACES, Anything))
