"""What is wrong between two nodes that loses packets: the checks of both ends of their tunnel, for one packet that got lost.

A trace and a walk know where it was last; why, and the whole command that mends it, is known by who compares both ends.
Pure. Must not know: how the packet was followed. Read next: `netscope/checks/tunnels.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from netscope.checks import tunnels, underlay
from netscope.facts import Facts, Finding

LOSING = (underlay.carriers, tunnels.settings, tunnels.routes, tunnels.neighbours, tunnels.forwarding_entries,
          underlay.neighbours)


def suspect(cluster: Mapping[str, Facts], where: str, others: Collection[str]) -> Finding | None:
    """The first thing wrong on the node where it was last seen, towards the nodes of its ends; then on those."""
    names = {where, *others} & cluster.keys()
    found = list(_found({name: cluster[name] for name in sorted(names)}))
    return next((each for each in found if each.node == where), next(iter(found), None))


def _found(cluster: Mapping[str, Facts]) -> Iterator[Finding]:
    for check in LOSING:
        yield from check(cluster)
