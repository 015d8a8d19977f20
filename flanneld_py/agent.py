"""The overlay daemon, put together.

    store --leases-> Tenure (ours)   \\
         --watch---> snapshot (all)   >- Inputs -> plan.py -> Reconciler -> kernel network, attendant
    netlink monitor: "look again"                              |
    nft monitor, lease: the same for the traffic rules  -> Reconciler -> nftables or iptables
                                                               `-> both worked: subnet.env, READY=1

Events only mark the reconciler dirty. When the daemon ends, however it ends, the network stays as it is.
Read next: `flanneld_py/plan.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

from flanneld_py import metrics, plan
from flanneld_py.attend.choice import choose_attendant, withdraw_others
from flanneld_py.backends.choice import parse_backend
from flanneld_py.backends.port import Backend
from flanneld_py.checksums import tune
from flanneld_py.config import Settings
from flanneld_py.herald import Herald
from flanneld_py.identity import Identity, equip
from flanneld_py.iface import Underlay, Wishes, check_wishes, choose_underlay, follow_underlay
from flanneld_py.lease import Lease
from flanneld_py.masq import Wanted
from flanneld_py.netconf import NetConf, parse_netconf
from flanneld_py.reload import Reload, follow_hangups, start_anew
from flanneld_py.rules import RulesTarget
from flanneld_py.store.opening import open_store, wait_for_config, wait_for_public_addresses
from flanneld_py.store.port import LeaseStore, Snapshot, Wish
from flanneld_py.subnetfile import read_networks, read_previous, render_subnet_file, write_subnet_file
from flanneld_py.target import NodeTarget
from flanneld_py.tenure import Tenure
from flanneld_py.wayout import WayOut
from nodecore.daemon import health, systemd
from nodecore.errors import Blame, Fault, NotFound
from nodecore.kernel.host import KernelHost
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.model import NetState
from nodecore.kernel.netlink import KernelNetwork
from nodecore.kernel.nft import Nft
from nodecore.kernel.ports import Chains, Firewall, Host, Network
from nodecore.kernel.sysctl import read_sysctl
from nodecore.loop.backoff import Backoff
from nodecore.loop.persist import Complaint
from nodecore.loop.reconcile import Outcome, Reconciler
from nodecore.loop.supervise import run_tasks
from nodecore.net import Family, IPNetwork

log = logging.getLogger(__name__)

RESYNC = 30.0
MIN_INTERVAL = 0.005  # a pass for one peer takes as long
RULES_INTERVAL = 0.1
CALM = 0.05
RETRY = 1.0


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world."""

    store: LeaseStore
    host: Host
    network: Network
    firewall: Firewall
    chains: Chains


@dataclass
class Agent:
    """One daemon: what it was told, what it knows, and its two reconcilers: one for the network, one for the traffic rules."""

    settings: Settings
    ports: Ports
    leases: tuple[Lease, ...] | None = None
    former: tuple[IPNetwork, ...] = ()
    conf: NetConf = field(init=False)
    backend: Backend = field(init=False)
    identity: Identity = field(init=False)
    wishes: Wishes = field(init=False)
    underlay: Underlay = field(init=False)
    tenure: Tenure = field(init=False)
    herald: Herald = field(init=False)
    target: NodeTarget = field(init=False)
    reconciler: Reconciler = field(init=False)
    rules: Reconciler = field(init=False)
    traffic_target: RulesTarget = field(init=False)
    count: Callable[[Outcome], None] = lambda outcome: None
    count_rules: Callable[[Outcome], None] = lambda outcome: None
    healing: metrics.Healing = field(default_factory=metrics.Healing)
    healing_rules: metrics.Healing = field(default_factory=metrics.Healing)
    unwritten: Complaint = field(default_factory=lambda: Complaint(log, "the network works, but nobody is told"))
    ready: bool = False

    async def run(self) -> None:
        """Start, then work for ever."""
        self.target = NodeTarget(self.ports.network, self.inputs)
        self.reconciler = Reconciler(
            "flanneld", self.target, resync=RESYNC, min_interval=MIN_INTERVAL, backoff=Backoff(cap=10.0), on_outcome=self._passed
        )
        self.traffic_target = RulesTarget(self.ports.firewall, self.ports.chains, self.traffic)
        self.rules = Reconciler(
            "rules", self.traffic_target, resync=self.settings.rules_resync,
            min_interval=RULES_INTERVAL, backoff=Backoff(cap=10.0), on_outcome=self._rules_passed,
        )
        self._serve_health()
        await self.learn()
        await self.tenure.begin()
        self._measure()
        block = self.conf.block(Family.IPV4)
        await withdraw_others(self.backend, block.network if block else None)
        self.target.attendant = choose_attendant(self.backend, self.underlay, self.reconciler.mark)
        try:
            await run_tasks({
                "lease": self.tenure.run(), "leases": self._follow_leases(), "herald": self.herald.run(),
                "reconciler": self.reconciler.run(), "network monitor": self._follow_network(),
                "rules": self.rules.run(), "nft monitor": self._follow_tables(),
                "way out": WayOut(self.ports.host, self.underlay, self._look, self._take_way, self.reconciler.hurry).run(),
                "watchdog": systemd.watchdog(lambda: self.reconciler.alive and self.rules.alive),
            }, signals=False)
        finally:
            if self.target.attendant:
                await self.target.attendant.close()

    def inputs(self) -> plan.Inputs | None:
        """All we know, None until it is complete."""
        if self.leases is None:
            return None
        return self.inputs_for(self.tenure.lease, self.leases)

    def inputs_for(self, own: Lease, leases: tuple[Lease, ...]) -> plan.Inputs:
        """The same with other leases."""
        return plan.Inputs(self.conf, self.backend, self.underlay, self.settings.features, own, leases, self.former)

    def traffic(self) -> Wanted:
        """The traffic rules, which need no peers."""
        return plan.desired_traffic(self.conf, self.backend, self.settings.features, self.tenure.lease)

    async def learn(self, *, rehearsal: bool = False) -> None:
        """The configuration, the way out, and what we wish for."""
        check_wishes(self.ports.host, self.settings.wishes)
        self.former = read_networks(self.settings.subnet_file)
        self.conf = await wait_for_config(self.ports.store)
        self.backend = await equip(parse_backend(self.conf), rehearsal=rehearsal)
        ipv6 = read_sysctl(plan.FORWARDING[Family.IPV6]) is not None
        written = await wait_for_public_addresses(self.ports.store)
        self.wishes = replace(self.settings.wishes, public={**(self.settings.wishes.public or {}), **written})
        self.underlay = choose_underlay(self.ports.host, self.conf.families, self.wishes, ipv6=ipv6)
        log.info("Using interface %s", self.underlay.describe())
        driver, release = self.ports.host.driver(self.underlay.link), read_sysctl("kernel/osrelease") or ""
        self.backend, why = tune(self.backend, self.settings.tx_checksum, driver, release)
        if why:
            log.info("Checksums of what goes into the tunnel: %s", why)
        log.info("Backend: %s", self.backend)
        self.backend.check(self.underlay)
        self.identity = Identity(self.ports.host, self.backend)
        self.herald = Herald(self.ports.store)
        self.tenure = Tenure(self.ports.store, self.wish(), self.settings.renew_margin, self._moved, self.herald.say)

    def _look(self, before: Underlay) -> Underlay:
        return follow_underlay(self.ports.host, self.conf.families, self.wishes, before)

    async def _take_way(self, underlay: Underlay) -> None:
        """The underlay is another one: another address goes into our lease, which keeps its subnet."""
        self.backend.check(underlay)
        log.info("Using interface %s now", underlay.describe())
        before, self.underlay = self.underlay, underlay
        if (before.addresses, before.public) != (underlay.addresses, underlay.public):
            if self.target.attendant:
                await self.target.attendant.close()
                self.target.attendant = choose_attendant(self.backend, underlay, self.reconciler.mark)
            self.tenure.move(self.wish())
        self.reconciler.hurry()

    async def check_config(self) -> None:
        """Whether the network config is one we could start with; a `Fault` says what is wrong."""
        text = await self.ports.store.config()
        if text is None:
            raise NotFound("the network config is gone")
        parse_backend(parse_netconf(text))

    def wish(self) -> Wish:
        """What we ask the store for."""
        previous = read_previous(self.settings.subnet_file)
        return Wish(
            self.conf, self.underlay.public, previous, self.identity.lease_data, self.backend.lease_type,
            recognises=self.identity.recognises,
        )

    def _moved(self) -> None:
        """Our lease is another one."""
        self.reconciler.mark()
        self.rules.mark()

    async def _follow_leases(self) -> None:
        async for snapshot in self.ports.store.watch():
            self.see(snapshot)

    def see(self, snapshot: Snapshot) -> None:
        """Take in all leases."""
        self.leases = tuple(snapshot.leases[key] for key in sorted(snapshot.leases))
        self.tenure.see(snapshot)
        self.reconciler.mark()

    async def _follow_network(self) -> None:
        async for _ in self.ports.network.changes():
            self.target.doubt()
            self.reconciler.mark()
            await asyncio.sleep(CALM)  # the first change at once, a storm of them together

    async def _follow_tables(self) -> None:
        async for name in self.ports.firewall.changes(chains=True):
            if self.traffic_target.hear(name):
                self.rules.mark()

    def _passed(self, outcome: Outcome) -> None:
        self.count(outcome)
        self.healing.passed(outcome, self.target.served)
        if not outcome.error:
            self._tell()

    def _rules_passed(self, outcome: Outcome) -> None:
        self.count_rules(outcome)
        self.healing_rules.passed(outcome, self.traffic())
        if not outcome.error and not self.ready:
            self._tell()

    def _tell(self) -> None:
        """Once network and rules have worked: tell the CNI plugin and the service manager."""
        served = self.target.served
        if not (served and self.reconciler.condition.synced_once and self.rules.condition.synced_once):
            return
        mtu = served.backend.mtu(served.underlay)
        if self.target.attendant:
            mtu = self.target.attendant.mtu(mtu)
        text = render_subnet_file(self.conf, served.own, mtu, ip_masq=self.settings.features.ip_masq)
        try:
            write_subnet_file(self.settings.subnet_file, text)
        except Fault as fault:
            if fault.blame is Blame.USER and not self.ready:
                raise
            self.unwritten.tell(fault)
            asyncio.get_running_loop().call_later(RETRY, self._tell)
            return
        self.unwritten.settle()
        if not self.ready:
            self.ready = True
            log.info("Running: the network works and %s is written", self.settings.subnet_file)
            systemd.notify("READY=1")
            self.herald.begin()

    def _serve_health(self) -> None:
        host, port = self.settings.healthz
        if not port:
            return
        from nodecore.daemon.metrics import exposition

        health.serve(host, port, {
            "/healthz": health.check(lambda: True, "flanneld is running"),
            "/readyz": health.check(lambda: self.ready and self.reconciler.healthy and self.rules.healthy),
            "/metrics": exposition,
        })

    def _measure(self) -> None:
        if self.settings.healthz[1]:
            self.count, self.count_rules = metrics.observe("flanneld", self.state)

    def state(self) -> metrics.State:
        """How we are now, for the metrics."""
        others = Counter(lease.backend for lease in self.leases or () if lease.key != self.tenure.lease.key)
        net = self.target.wanted.net if self.target.wanted and self.reconciler.condition.synced_once else NetState()
        records = {part.name: len(getattr(net, part.name)) for part in fields(net)}
        records["attended"] = len(self.target.wanted.peers) if self.target.wanted else 0
        return metrics.State(self.backend.type, self.tenure.ends, others, records)


async def run(settings: Settings) -> None:
    """Run the daemon in this network namespace until a signal."""
    try:
        async with open_store(settings) as store:
            agent = Agent(settings, open_ports(store))
            await run_tasks({"flanneld": agent.run(), "reload": follow_hangups(agent.check_config)})
    except* Reload:
        start_anew()
    log.info("Exiting; the network stays as it is")


def open_ports(store: LeaseStore) -> Ports:
    """The real ones."""
    return Ports(store, KernelHost(), KernelNetwork(), Nft(), Iptables())
