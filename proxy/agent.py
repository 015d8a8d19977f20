"""The proxy in one screen: two informers fill a snapshot, one reconciler writes it, a monitor guards what was written.

    Services, EndpointSlices -> Snapshot -> Rules (ledger, layout) -> nft, conntrack
    somebody else's change of our tables -> doubt -> written anew

Nothing is written before both inputs are complete. When this process ends, or the API is away, the rules stay.
Read next: `proxy/target.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from nodecore.daemon import systemd
from nodecore.kernel.conntrack import Conntrack
from nodecore.kernel.nft import EVERYTHING, Nft
from nodecore.kube import config as kubeconfig
from nodecore.kube.client import KubeClient
from nodecore.kube.informer import Informer, key_of
from nodecore.kube.objects import EndpointSlice, Node, Service
from nodecore.kube.resource import ENDPOINT_SLICES, NODES, SERVICES
from nodecore.loop.reconcile import Outcome, Reconciler
from nodecore.loop.supervise import run_tasks
from nodecore.net import Family

from . import health
from .config import Config
from .render.nftables import Layout, Settings
from .snapshot import Snapshot
from .target import Rules

log = logging.getLogger(__name__)
ZONE = "topology.kubernetes.io/zone"
REST_PER_WORK = 10  # syncs take at most this fraction of the time, and never wait longer than --iptables-min-sync-period


async def run(config: Config) -> None:
    """Answer for Services until a signal comes."""
    async with KubeClient(kubeconfig.load(config.kubeconfig), user_agent="kube-proxy-py") as client:
        snapshot, nft = Snapshot(config.node), Nft()
        rules = Rules(snapshot, layouts(config), nft, Conntrack())
        reconciler = Reconciler("proxy", rules, resync=config.sync_period)
        informers = (
            Informer(client, SERVICES, into=Service, on_item=snapshot.put_service, on_change=reconciler.mark),
            Informer(client, ENDPOINT_SLICES, into=EndpointSlice, on_item=snapshot.put_slice, on_change=reconciler.mark),
        )
        rules.inputs = informers  # and not our Node: nothing is wrong without it, only farther
        node: Informer[Node] = Informer(client, NODES, into=Node, fields=f"metadata.name={config.node}",
                                        on_item=lambda _, node: snapshot.put_zone(zone_of(node)), on_change=reconciler.mark)
        reconciler.on_outcome = outcomes(reconciler, config)
        servers = health.serve(config, reconciler, rules)
        try:
            await run_tasks({
                "services": informers[0].run(),
                "endpointslices": informers[1].run(),
                "node": node.run(),
                "monitor": guard(nft, rules, reconciler),
                "rules": reconciler.run(),
                "watchdog": systemd.watchdog(lambda: True),
            })
        finally:
            for server in servers:
                server.shutdown()


def zone_of(node: Node | None) -> str:
    """The zone a node says it is in; empty where it says none."""
    return (node.metadata.labels or {}).get(ZONE, "") if node else ""


def layouts(config: Config) -> list[Layout]:
    """One per family."""
    settings = Settings(config.cluster_cidrs, config.node_port_addresses, masquerade_all=config.masquerade_all)
    return [Layout(family, settings) for family in config.families]


async def guard(nft: Nft, rules: Rules, reconciler: Reconciler) -> None:
    """Have a table written anew when somebody else changed it."""
    async for table in nft.changes():
        if rules.doubt(table):
            log.warning("table %s was changed by somebody else: writing it anew", table)
            reconciler.mark()
        elif table == EVERYTHING:
            rules.forget()
            reconciler.mark()


def outcomes(reconciler: Reconciler, config: Config) -> Callable[[Outcome], None]:
    """Count each sync, report the first as readiness, and rest in proportion to the work it was."""
    count = health.observer()
    told = False

    def observe(outcome: Outcome) -> None:
        nonlocal told
        count(outcome)
        reconciler.min_interval = min(config.min_sync_period, REST_PER_WORK * outcome.seconds)
        if not told and outcome.error is None:
            told = True
            systemd.notify("READY=1")

    return observe


async def print_plan(config: Config) -> None:
    """Print the scripts that would be run, once both inputs are complete."""
    async with KubeClient(kubeconfig.load(config.kubeconfig), user_agent="kube-proxy-py") as client:
        snapshot = Snapshot(config.node)
        services = await client.list(SERVICES, into=Service)
        slices = await client.list(ENDPOINT_SLICES, into=EndpointSlice)
    for service in services.items:
        snapshot.put_service(key_of(service), service)
    for item in slices.items:
        snapshot.put_slice(key_of(item), item)
    print(Rules(snapshot, layouts(config), Nft(), Conntrack()).dry_run(), end="")


async def clean_up() -> None:
    """Remove every table of ours."""
    for family in Family:
        await Nft().load(Layout(family).removal_script())
