"""The proxy in one screen: two informers fill a snapshot, one reconciler writes it, a monitor guards what was written.

    Services, EndpointSlices -> Snapshot -> Rules (ledger, layout) -> Writer (nft or iptables), conntrack
    somebody else's change of what is ours -> written anew

Nothing is written before both inputs are complete. When this process ends, or the API is away, the rules stay.
Read next: `proxy/target.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nodecore.daemon import heap, systemd
from nodecore.errors import Blame, Fault
from nodecore.kernel.conntrack import Conntrack
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.model import Sysctl
from nodecore.kernel.nft import Nft
from nodecore.kernel.sysctl import read_sysctl
from nodecore.kube import config as kubeconfig
from nodecore.kube.client import KubeClient
from nodecore.kube.config import KubeConfig
from nodecore.kube.informer import Informer
from nodecore.kube.objects import EndpointSlice, Node, Service
from nodecore.kube.resource import ENDPOINT_SLICES, NODES, SERVICES
from nodecore.loop.backoff import Backoff
from nodecore.loop.reconcile import Outcome, Reconciler
from nodecore.loop.supervise import run_tasks
from nodecore.net import Family, parse_network

from . import health, modes
from .checks import Checks
from .config import Config, Locality
from .metrics import Counts
from .modes import layouts
from .pace import Pace
from .probe import Probe
from .restart import Home, Reread, watch_file
from .snapshot import Snapshot
from .sysctls import AFTER_RULES, BRIDGED, IPVS, ROUTE_LOCALNET, STRICT_ARP, WANTED, conntrack_switches
from .target import Rules, set_switches
from .writers.takeover import Takeover

log = logging.getLogger(__name__)
IPV6 = Path("/proc/net/if_inet6")
ZONE = "topology.kubernetes.io/zone"


async def run(told: Config, file: str = "", reread: Reread | None = None) -> None:
    """Answer for Services until a signal comes, or until what was told is no longer so."""
    here = of_this_kernel(told)
    prepare(here)
    async with open_client(here) as client:
        config = await at_home(here, client)
        home = Home(config, partial(settled, here))
        snapshot, writer = Snapshot(config.node), modes.writer(config)
        checks = Checks(lambda: reconciler.healthy)
        rules = Rules(snapshot, layouts(config), writer, Conntrack(), switches_of(config), checks)
        rules.forget_tcp = config.forget_tcp
        rules.probe = Probe(config.families) if config.verify_programming else None
        counts, eligible = Counts(config.mode, verified=config.verify_programming), health.Eligibility()
        counts.watch(rules)
        client.on_answer = partial(counts.asked, urlsplit(client.config.server).netloc)
        reconciler = Reconciler("proxy", rules, resync=config.sync_period)
        put_service, put_slice = counts.services(snapshot.put_service), counts.slices(snapshot.put_slice)
        informers = (
            Informer(client, SERVICES, into=Service, on_item=put_service, on_change=reconciler.mark),
            Informer(client, ENDPOINT_SLICES, into=EndpointSlice, on_item=put_slice, on_change=reconciler.mark),
        )
        rules.inputs = informers  # and not our Node: nothing is wrong without it, only farther

        def see(ours: Node | None) -> None:
            snapshot.put_zone(zone_of(ours))
            eligible.put(ours)
            home.see(ours)

        node: Informer[Node] = Informer(client, NODES, into=Node, fields=f"metadata.name={config.node}",
                                        on_item=lambda _, node: see(node), on_change=reconciler.mark)
        reconciler.on_outcome = outcomes(reconciler, config, counts)
        servers = health.serve(config, reconciler, rules, counts, eligible, writer)
        try:
            await run_tasks({
                "services": informers[0].run(),
                "endpointslices": informers[1].run(),
                "node": node.run(),
                "monitor": guard(writer, reconciler),
                "rules": reconciler.run(),
                "watchdog": systemd.watchdog(lambda: reconciler.alive),
                "home": home.watch(),
                **({"file": watch_file(file, told, reread)} if reread else {}),
            })
        finally:
            await checks.close()
            for server in servers:
                server.shutdown()


def of_this_kernel(config: Config) -> Config:
    """The configuration without IPv6, where there is none."""
    if IPV6.exists():
        return config
    return replace(config, families=tuple(family for family in config.families if family is Family.IPV4))


def open_client(config: Config) -> KubeClient:
    """Whom to ask, and as whom."""
    alone = config.master and not (config.kubeconfig or os.environ.get("KUBECONFIG"))
    where = (alone and (kubeconfig.in_cluster() or KubeConfig(config.master))) or kubeconfig.load(config.kubeconfig)
    return KubeClient(replace(where, server=config.master) if config.master else where, user_agent="kube-proxy-py")


def switches_of(config: Config) -> tuple[Sysctl, ...]:
    """The kernel's switches that follow from the flags."""
    ipvs = (*IPVS, *(STRICT_ARP if config.ipvs.strict_arp else ())) if config.mode == "ipvs" else ()
    loopback = (ROUTE_LOCALNET,) if config.loopback_node_ports and Family.IPV4 in config.families else ()
    return (*conntrack_switches(config.conntrack, os.cpu_count() or 1), *ipvs, *loopback)


def prepare(config: Config) -> None:
    """Set what takes root and no rules: the switches, and how ready the kernel is to end this process."""
    modes.prepare(config)
    score = Path("/proc/self/oom_score_adj")
    try:
        if int(score.read_text()) != config.oom_score_adj:  # as the unit has set it: to go below that takes a right of its own
            score.write_text(str(config.oom_score_adj))
    except OSError as error:
        log.warning("--oom-score-adj: %d could not be set: %s", config.oom_score_adj, error.strerror)
    sure = [family for family in config.families if family is Family.IPV4 or config.cluster_cidrs]
    wanted = (*switches_of(config), *(switch for family in sure for switch in WANTED[family]))
    set_switches(switch for switch in wanted if switch not in AFTER_RULES)
    for family in sure:
        if read_sysctl(BRIDGED[family]) != "1":
            log.warning("%s is not 1 (is the module br_netfilter loaded?): where a node's pods share a bridge, they do not reach "
                        "one another through a Service", BRIDGED[family].replace("/", "."))


async def at_home(config: Config, client: KubeClient) -> Config:
    """The configuration with what our Node says where the flags ask for that: the networks of its pods, its own addresses."""
    if not (config.locality.node_cidr or config.node_ports_on_primary):
        return config
    backoff = Backoff(first=0.2, cap=5.0)
    while True:
        try:
            node: Node = await client.get(NODES, config.node, into=Node)
            found = settled(config, node)
            if found:
                return found
            trouble = "it has no podCIDR or no InternalIP yet"
        except Fault as fault:
            if fault.blame is Blame.USER:
                raise
            trouble = str(fault)
        delay = backoff.next()
        log.warning("Node %s: %s; again in %.1f s", config.node, trouble, delay)
        await asyncio.sleep(delay)


def settled(config: Config, node: Node) -> Config | None:
    """The configuration with what a Node says; None where it does not say it yet."""
    if config.locality.node_cidr:
        networks = tuple(parse_network(text, what="podCIDR") for text in node.spec.pod_cidrs or [])
        if not networks:
            return None
        config = replace(config, locality=Locality(networks))
    if config.node_ports_on_primary:
        addresses = [item.address for item in node.status.addresses or [] if item.type == "InternalIP"]
        if not addresses and config.bind_address:
            addresses = [str(config.bind_address)]
        networks = tuple(parse_network(text, what="InternalIP") for text in addresses)
        if not networks:
            return None
        config = replace(config, node_port_addresses=(*config.node_port_addresses, *networks))
    return config


def zone_of(node: Node | None) -> str:
    """The zone a node says it is in; empty where it says none."""
    return (node.metadata.labels or {}).get(ZONE, "") if node else ""


async def guard(writer: modes.Writer[Any], reconciler: Reconciler) -> None:
    """Have it looked at when somebody else may have changed what is ours."""
    async for _ in writer.news():
        reconciler.hurry()


def outcomes(reconciler: Reconciler, config: Config, counts: Counts) -> Callable[[Outcome], None]:
    """Count each sync, report the first as readiness, and after later ones rest in proportion to the work they were."""
    pace, told = Pace(config.min_sync_period), False

    def observe(outcome: Outcome) -> None:
        nonlocal told
        counts.observe(outcome)
        if told:  # the first writes all there is: a change then need not wait for that
            reconciler.min_interval = pace.rest(reconciler.clock.now(), outcome.seconds)
        if not told and outcome.error is None:
            told = True
            systemd.notify("READY=1")
            heap.settle()

    return observe


def rules_of(config: Config, snapshot: Snapshot) -> Rules:
    """What would be written for a snapshot, for those who only look."""
    return Rules(snapshot, layouts(config), modes.writer(config), Conntrack(), switches_of(config))


async def clean_up(config: Config) -> None:
    """Remove our rules of every mode; Go kube-proxy's stay, for one that has taken over again."""
    await Takeover(Nft(), Iptables(), config.ipvs.excluded).clean_up()
