"""--cleanup: take away what any flanneld, ours or Go's, left on this node: devices, routes, traffic rules, subnet.env.

Which network is meant is what subnet.env says; where it says nothing, all that looks like flannel's goes. The lease stays:
the next start finds its subnet again. etcd is not asked.

Read next: `flanneld_py/plan.py`.
"""

from __future__ import annotations

from flanneld_py.attend.charon import is_there
from flanneld_py.attend.ipsec import withdraw
from flanneld_py.backends.choice import DEVICES
from flanneld_py.config import Settings
from flanneld_py.masq import RuleSet, Wanted
from flanneld_py.rules import RulesTarget
from flanneld_py.subnetfile import read_networks
from nodecore.kernel.diff import plan_changes
from nodecore.kernel.iptables import Iptables
from nodecore.kernel.model import NetState, scope_of
from nodecore.kernel.netlink import KernelNetwork
from nodecore.kernel.nft import Nft
from nodecore.net import Family


async def clean_up(settings: Settings, *, rehearsal: bool = False) -> None:
    """Do it, a line for each thing; a rehearsal only tells."""
    network = KernelNetwork()
    there = await network.read(scope_of(NetState(), DEVICES, read_networks(settings.subnet_file)))
    changes = plan_changes(there, NetState())
    for change in changes:
        print(change.describe())
    nothing = Wanted(tuple(RuleSet(family) for family in Family))
    rules = RulesTarget(Nft(), Iptables(), lambda: nothing)
    writes = rules.plan(await rules.observe(nothing), nothing)
    for write in writes:
        print(write.describe())
    for name in await withdraw(None, rehearsal=rehearsal) if is_there() else ():
        print(f"delete connection {name} of charon")
    if settings.subnet_file.exists():
        print(f"delete {settings.subnet_file}")
    if not rehearsal:
        await network.apply(changes)
        await rules.apply(writes)
        settings.subnet_file.unlink(missing_ok=True)
