"""Leases in Kubernetes: each Node carries its own, with Go flanneld's annotations, so that both can share a cluster.

    spec.podCIDRs      the subnets: the controller manager has given them out, there is nothing to allocate
    annotations        what peers need to know; ours are patched in, through the status subresource
    NetworkUnavailable False, reason FlannelIsUp, once the network works; True while we have no lease others know of

Such a lease has no time to live. It is gone when the Node is, and ours is written again when somebody took it away.
Must not know: etcd, VXLAN, the kernel. Read next: `flanneld_py/store/annotations.py`, `nodecore/kube/informer.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flanneld_py.lease import Lease, Part
from flanneld_py.store.annotations import Annotations, pod_subnets
from flanneld_py.store.port import Held, Snapshot, Standing, Wish
from nodecore.errors import Bug, Invalid, NotFound, Unreachable, UserError
from nodecore.kube.client import STRATEGIC, KubeClient
from nodecore.kube.informer import Informer
from nodecore.kube.objects import ObjectMeta, View
from nodecore.kube.resource import NODES
from nodecore.net import Family, IPAddress

log = logging.getLogger(__name__)

SYNC_LIMIT = 600.0
CONDITION = "NetworkUnavailable"


class Spec(View, frozen=True):
    """The part of a Node's spec that is a lease's."""

    pod_cidr: str = ""
    pod_cidrs: list[str] | None = None


class Condition(View, frozen=True):
    """One of a Node's conditions."""

    type: str
    status: str = ""


class Conditions(View, frozen=True):
    """The part of a Node's status we look at."""

    conditions: list[Condition] | None = None


class Node(View, frozen=True):
    """A Node as far as it is a lease."""

    metadata: ObjectMeta
    spec: Spec = Spec()

    @property
    def told(self) -> Mapping[str, str]:
        """Its annotations."""
        return self.metadata.annotations or {}


class OwnNode(Node, frozen=True):
    """Ours, with its conditions."""

    status: Conditions = Conditions()


@dataclass(frozen=True, slots=True)
class Place:
    """Which Node is ours, and how leases are written there; without a `sync_limit` the list of Nodes is waited for for ever."""

    node: str
    names: Annotations
    config: Path
    set_condition: bool = True
    sync_limit: float | None = SYNC_LIMIT


class KubeLeaseStore:
    """The `LeaseStore` of one cluster and one annotation prefix."""

    def __init__(self, client: KubeClient, place: Place) -> None:
        self._client, self._place = client, place
        self._families: tuple[Family, ...] = tuple(Family)
        self._leases: dict[str, Lease] = {}
        self._wrong: dict[str, str] = {}
        self._moved = False

    async def config(self) -> str | None:
        """The network configuration's text: a file, which a ConfigMap is mounted at."""
        path = self._place.config
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--net-config-path: cannot read {path}: {getattr(error, 'strerror', None) or error}") from None

    async def public_addresses(self) -> Mapping[Family, IPAddress]:
        """What the annotations node-public-ip and node-public-ipv6 say."""
        node = await self._own()
        found = {family: self._place.names.stored(node.told, family) for family in Family}
        return {family: address for family, address in found.items() if address}

    async def preview(self, wish: Wish) -> Lease:
        """The lease `acquire` would take."""
        return self._wanted(await self._own(), wish)

    async def acquire(self, wish: Wish) -> Held:
        """Annotate our Node, as far as it is not yet."""
        node = await self._own()
        lease = self._wanted(node, wish)
        change = {name: text for name, text in self._place.names.encode(lease).items() if node.told.get(name) != text}
        version = node.metadata.resource_version
        if change:
            written = await self._patch({"metadata": {"annotations": change}})
            version = str(written["metadata"]["resourceVersion"])
        log.info("%s lease %s on node %s", "Annotated" if change else "Keeping", lease.describe(), self._place.node)
        return Held(lease, 0, _revision(version), 0.0)

    async def renew(self, held: Held) -> float:
        """Nothing to do: the lease lasts as long as the Node."""
        return float("inf")

    async def announce(self, standing: Standing) -> None:
        """Set our Node's condition."""
        if not self._place.set_condition:
            return
        node = await self._own()
        status = "False" if standing.works else "True"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": CONDITION, "status": status, "reason": standing.reason, "message": standing.message,
                     "lastHeartbeatTime": now}
        if not any((old.type, old.status) == (CONDITION, status) for old in node.status.conditions or []):
            condition["lastTransitionTime"] = now
        await self._patch({"status": {"conditions": [condition]}})

    async def watch(self) -> AsyncIterator[Snapshot]:
        """All leases now and after every change of one."""
        changed = asyncio.Event()
        informer: Informer[Node] = Informer(self._client, NODES, into=Node, on_item=self._take, on_change=changed.set)
        task = asyncio.create_task(informer.run(), name="nodes")
        task.add_done_callback(lambda _: changed.set())
        try:
            await self._first_list(changed)
            self._moved = True
            while True:
                changed.clear()
                if task.done():
                    task.result()
                    raise Bug("the watch of nodes ended, but was meant to run for ever")
                if self._moved:
                    self._moved = False
                    yield Snapshot(self._by_subnet(), _revision(informer.version))
                await changed.wait()
        finally:
            task.cancel()

    async def _first_list(self, listed: asyncio.Event) -> None:
        limit = self._place.sync_limit
        try:
            async with asyncio.timeout(limit):
                await listed.wait()
        except TimeoutError:
            raise Unreachable(f"no list of all nodes within {limit:.0f} s (CONT_WHEN_CACHE_NOT_READY=true waits on)") from None

    def _take(self, name: str, node: Node | None) -> None:
        lease = self._read(name, node) if node else None
        if lease == self._leases.get(name):
            return
        self._moved = True
        if lease:
            self._leases[name] = lease
        else:
            del self._leases[name]

    def _read(self, name: str, node: Node) -> Lease | None:
        try:
            subnets = pod_subnets(node.spec.pod_cidr, node.spec.pod_cidrs or [])
            wanted = {family: subnet for family, subnet in subnets.items() if family in self._families}
            lease = self._place.names.decode(node.told, wanted)
        except Invalid as fault:
            if self._wrong.get(name) != str(fault):
                log.warning("node %s is no peer: %s", name, fault)
            self._wrong[name] = str(fault)
            return None
        self._wrong.pop(name, None)
        return lease

    def _by_subnet(self) -> dict[str, Lease]:
        """Ours first, so that another Node with our subnet does not hide it."""
        order = sorted(self._leases, key=lambda name: (name != self._place.node, name))
        found: dict[str, Lease] = {}
        for name in order:
            found.setdefault(self._leases[name].key, self._leases[name])
        return found

    def _wanted(self, node: OwnNode, wish: Wish) -> Lease:
        self._families = wish.conf.families
        subnets = pod_subnets(node.spec.pod_cidr, node.spec.pod_cidrs or [])
        before = self._read(self._place.node, node)
        parts = []
        for block in wish.conf.blocks:
            family = Family.of(block.network)
            subnet = subnets.get(family)
            if subnet is None:
                raise NotFound(f"node {self._place.node} has no IPv{family.value} podCIDR yet "
                               "(the controller manager gives them out, with --allocate-node-cidrs)")
            if not subnet.subnet_of(block.network):  # type: ignore[arg-type]  # both are of this family
                raise UserError(f"podCIDR {subnet} of node {self._place.node} is not inside {block.network}, "
                                f"the network of {self._place.config}")
            public = self._place.names.overwritten(node.told, family) or wish.public[family]
            parts.append(Part(subnet, public, wish.data(family, before.part(family) if before else None)))
        return Lease(tuple(parts), wish.backend)

    async def _own(self) -> OwnNode:
        try:
            node: OwnNode = await self._client.get(NODES, self._place.node, into=OwnNode)
        except NotFound:
            raise NotFound(f"there is no node {self._place.node} yet (its name is from NODE_NAME or our pod)") from None
        return node

    async def _patch(self, change: dict[str, Any]) -> Any:
        return await self._client.patch(NODES, self._place.node, change, kind=STRATEGIC, subresource="status")


def _revision(version: str) -> int:
    """Versions of one resource are decimal numbers that grow (KEP-5504); etcd's own revisions, in every API server there is."""
    try:
        return int(version)
    except ValueError:
        raise Invalid(f"the API's resourceVersion {version!r} is not a number") from None
