"""The controllers' process on one screen: collections, controllers, election, tasks.

Read next: `minik8s/controllers/driver.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from nodecore.daemon import health, systemd
from nodecore.daemon.heap import keep_small
from nodecore.errors import UserError
from nodecore.kube import config as kubeconfig
from nodecore.kube import resource as r
from nodecore.kube.client import KubeClient, wait_reachable
from nodecore.kube.election import DURATION, Election
from nodecore.kube.events import Recorder
from nodecore.kube.workload import Anything, DaemonSet, Deployment, Node, Pod, ReplicaSet
from nodecore.loop.reconcile import Reconciler
from nodecore.loop.supervise import run_tasks
from nodecore.net import IPNetwork, parse_network

from .daemon_history import ControllerRevision
from .daemonset import DaemonSets
from .deployment import Deployments
from .disruption import Budget, Disruptions, Scaled
from .driver import Controller, reconciler
from .endpoints import SelectingService
from .endpointslice import EndpointSlices, Legacy, LegacyEndpoints, Slice
from .garbage import Garbage, PodGarbage
from .kinds import OtherKinds
from .namespaces import DefaultAccounts, Namespace, Namespaces
from .nodecidr import NodeCidrs
from .nodehealth import Lease, NodeHealth
from .replicaset import ReplicaSets
from .scales import Scales
from .servicecidr import Range, ServiceRanges
from .world import Collection
from .writer import Writer

COMPONENT = "kube-controller-manager"
VIEWS: dict[r.Resource, type[Any]] = {
    r.NAMESPACES: Namespace, r.NODES: Node, r.PODS: Pod, r.SERVICES: SelectingService, r.ENDPOINTS: Legacy,
    r.ENDPOINT_SLICES: Slice, r.DEPLOYMENTS: Deployment, r.REPLICA_SETS: ReplicaSet, r.DAEMON_SETS: DaemonSet,
    r.CONTROLLER_REVISIONS: ControllerRevision, r.LEASES: Lease,
    r.SERVICE_ACCOUNTS: Anything, r.DISRUPTION_BUDGETS: Budget, r.STATEFUL_SETS: Scaled, r.REPLICATION_CONTROLLERS: Scaled,
    r.SERVICE_CIDRS: Range, r.IP_ADDRESSES: Anything,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line, judged."""

    kubeconfig: str
    identity: str
    networks: tuple[IPNetwork, ...] = ()
    prefixes: tuple[int, ...] = ()
    grace: float = 40.0
    healthz_port: int = 0
    leader_elect: bool = True
    lease: float = DURATION


def cluster_networks(text: str, mask_v4: int, mask_v6: int = 64) -> tuple[tuple[IPNetwork, ...], tuple[int, ...]]:
    """Judge `--cluster-cidr` and the mask sizes."""
    if not text:
        raise UserError("--cluster-cidr: needed with --allocate-node-cidrs")
    networks = tuple(parse_network(each, what="--cluster-cidr") for each in text.split(","))
    prefixes = tuple(mask_v4 if each.version == 4 else mask_v6 for each in networks)
    for network, prefix in zip(networks, prefixes, strict=True):
        if not network.prefixlen <= prefix <= network.max_prefixlen:
            raise UserError(f"--node-cidr-mask-size: a /{prefix} does not fit into --cluster-cidr {network}")
    return networks, prefixes


def controllers(settings: Settings, all_of: dict[r.Resource, Collection[Any]], garbage: Garbage,
                scales: Scales) -> list[Controller]:
    """Every controller over these collections."""
    pods, nodes, services = all_of[r.PODS], all_of[r.NODES], all_of[r.SERVICES]
    sets, namespaces = all_of[r.REPLICA_SETS], all_of[r.NAMESPACES]
    scaled = {each.kind: all_of[each] for each in (r.DEPLOYMENTS, r.REPLICA_SETS, r.STATEFUL_SETS, r.REPLICATION_CONTROLLERS)}
    found: list[Controller] = [
        Deployments(all_of[r.DEPLOYMENTS], sets, pods),
        ReplicaSets(sets, pods),
        DaemonSets(all_of[r.DAEMON_SETS], pods, nodes, all_of[r.CONTROLLER_REVISIONS]),
        EndpointSlices(services, pods, nodes, all_of[r.ENDPOINT_SLICES]),
        LegacyEndpoints(services, pods, nodes, all_of[r.ENDPOINTS]),
        NodeHealth(nodes, all_of[r.LEASES], pods, grace=settings.grace),
        Namespaces(namespaces),
        DefaultAccounts(namespaces, all_of[r.SERVICE_ACCOUNTS]),
        Disruptions(all_of[r.DISRUPTION_BUDGETS], pods, scaled, scales),
        ServiceRanges(all_of[r.SERVICE_CIDRS], all_of[r.IP_ADDRESSES]),
        garbage,
        PodGarbage(pods, nodes),
    ]
    if settings.networks:
        found.append(NodeCidrs(nodes, settings.networks, settings.prefixes))
    return found


async def run(settings: Settings) -> None:
    """Run until a signal comes or the lease is lost."""
    async with KubeClient(kubeconfig.load(settings.kubeconfig), user_agent=COMPONENT) as client:
        await wait_reachable(client)
        recorder = Recorder(client, COMPONENT)
        collections: dict[r.Resource, Collection[Any]] = {each: Collection(each, view) for each, view in VIEWS.items()}
        writer = Writer(client, collections, recorder)
        fixed = tuple(collections.values())
        garbage, scales = Garbage(collections), Scales(client)
        changed = asyncio.Event()
        loops: list[Reconciler] = []

        def synced() -> bool:
            return all(each.synced for each in fixed)

        def wake() -> None:
            if not changed.is_set() and synced():
                changed.set()
                for loop in loops:
                    loop.mark()

        tasks: dict[str, Coroutine[Any, Any, None]] = {
            f"watch {each.plural}": collection.follow(client, wake).run() for each, collection in collections.items()}
        loops += [reconciler(each, writer, synced) for each in controllers(settings, collections, garbage, scales)]
        election = Election(client, COMPONENT, settings.identity, duration=settings.lease)
        leading = asyncio.Event()
        if settings.leader_elect:
            tasks["election"] = _lead(election, leading)
        else:
            leading.set()
        tasks["ready"] = _tell_ready(changed)
        tasks["events"] = recorder.run()
        tasks["other kinds"] = OtherKinds(client, collections, garbage, wake, scales).run()
        tasks["scales"] = scales.run()
        tasks |= {loop.name: _after(leading, loop.run) for loop in loops}
        _serve_health(settings.healthz_port, synced, leading, loops)
        try:
            watchdog = systemd.watchdog(lambda: all(loop.alive for loop in loops))
            await run_tasks({**tasks, "heap": keep_small(), "watchdog": watchdog})
        finally:
            if leading.is_set() and settings.leader_elect:
                await election.release()


def _serve_health(port: int, synced: Callable[[], bool], leading: asyncio.Event, loops: Sequence[Reconciler]) -> None:
    def ok() -> bool:
        return synced() and not (leading.is_set() and any(loop.condition.failures >= loop.unhealthy_after for loop in loops))

    if port:
        health.serve("127.0.0.1", port, {"/healthz": health.check(ok), "/readyz": health.check(ok)})


async def _lead(election: Election, leading: asyncio.Event) -> None:
    await election.acquire()
    leading.set()
    await election.hold()


async def _after(event: asyncio.Event, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await event.wait()
    await run()


async def _tell_ready(synced: asyncio.Event) -> None:
    await synced.wait()
    systemd.notify("READY=1")
    await asyncio.Event().wait()
