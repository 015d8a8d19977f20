"""What the daemon would do now, without doing it: for `--dry-run` and for `flanneld-py show`.

Enters network namespaces, so nothing may talk gRPC after it.

Read next: `flanneld_py/agent.py`, whose steps are rehearsed here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from flanneld_py import plan
from flanneld_py.agent import Agent, Ports, open_ports
from flanneld_py.attend.choice import rehearsed_mtu
from flanneld_py.config import Settings
from flanneld_py.lease import Lease
from flanneld_py.masq import Wanted
from flanneld_py.plan import Desired, Inputs, NodeOp, Observed
from flanneld_py.rules import RulesTarget
from flanneld_py.store.opening import open_store
from flanneld_py.target import NodeTarget
from nodecore.errors import Fault
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.netns import Netns
from nodecore.kernel.ports import Variant
from nodecore.loop.reconcile import Op, describe_error

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """All that is known and wanted, what the kernel holds, and the writes between the two."""

    inputs: Inputs
    mtu: int
    wanted: Desired
    observed: Observed
    ops: Sequence[NodeOp]
    rules: Sequence[Op]

    @property
    def lease(self) -> Lease:
        """The one this node has or would take."""
        return self.inputs.own


async def rehearse(settings: Settings) -> Rehearsal:
    """Read everything, write nothing."""
    async with open_store(settings) as store:
        ports = open_ports(store)
        agent = Agent(settings, ports)
        await agent.learn(rehearsal=True)
        lease = await store.preview(agent.wish())
        snapshot = await anext(store.watch())
        inputs = agent.inputs_for(lease, tuple(snapshot.leases[key] for key in sorted(snapshot.leases)))
        target = NodeTarget(ports.network, lambda: inputs)
        wanted = target.desired()
        observed = await target.observe(wanted)
        ops = tuple(target.plan(observed, wanted))
    traffic = plan.desired_traffic(agent.conf, agent.backend, settings.features, lease)
    mtu = await rehearsed_mtu(agent.backend, agent.underlay)
    return Rehearsal(inputs, mtu, wanted, observed, ops, await rehearse_rules(ports, traffic))


async def rehearse_rules(ports: Ports, traffic: Wanted) -> Sequence[Op]:
    """The writes of rules. How nft and iptables list ours is known from a network namespace where they were written for a try."""
    rules = RulesTarget(ports.firewall, ports.chains, lambda: None)
    variant = Variant.NFT if traffic.nftables else await ports.chains.chosen()
    try:
        with Netns.create() as scratch, scratch.enter():
            tried = RulesTarget(ports.firewall, AsHere(variant), lambda: None)
            await tried.apply(tried.plan(await tried.observe(traffic), traffic))
        rules.trust(tried)
    except (Fault, ExceptionGroup) as error:
        log.warning("cannot try the rules out, so they are told as if they were not ours: %s", describe_error(error))
    return tuple(rules.plan(await rules.observe(traffic), traffic))


class AsHere(Iptables):
    """The iptables of wherever we are, in the variant this host uses."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self._variant = variant

    async def chosen(self) -> Variant:
        """The host's."""
        return self._variant


async def dry_run(settings: Settings) -> None:
    """Print what would be done."""
    found = await rehearse(settings)
    print(f"lease {found.lease.describe()}")
    for op in (*found.ops, *found.rules):
        print(op.describe())
