"""Flannel's IPsec: a policy there and back between every two nodes' subnets, with the right hosts, and keys agreed on.

Pure. Must not know: charon. Read next: `backends.py`, which knows the nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from netscope.checks.backends import IPSEC, Site, sites
from netscope.checks.leases import RESTART, subnets_of
from netscope.facts import Finding, IpsecPolicy
from netscope.scene import Scene
from nodecore.net import IPNetwork


def policies(scene: Scene) -> Iterator[Finding]:
    """What is for another node's pods goes into a tunnel to that node, and what comes from there is taken out of one."""
    for here, there in _pairs(scene):
        for ours in here.subnets:
            for theirs in there.subnets:
                if ours.version == theirs.version == 4:
                    yield from _between(here, there, ours, theirs)


def _between(here: Site, there: Site, ours: IPNetwork, theirs: IPNetwork) -> Iterator[Finding]:
    ends = {"out": (ours, theirs), "in": (theirs, ours), "fwd": (theirs, ours)}
    found = {direction: _policy(here, direction, *pair) for direction, pair in ends.items()}
    if missing := [direction for direction, policy in found.items() if policy is None]:
        yield Finding(here.name, f"no IPsec policy for the pods of {there.name}",
                      f"nothing for {', '.join(missing)} between {ours} and {theirs}", RESTART)
        return
    right = {"out": (here.host(4), there.host(4)), "in": (there.host(4), here.host(4)), "fwd": (there.host(4), here.host(4))}
    wrong = next((policy for direction, policy in found.items() if policy and policy.hosts != right[direction]), None)
    if wrong:
        yield Finding(here.name, f"the IPsec tunnel to the pods of {there.name} is another host's",
                      f"{wrong.direction} between {' and '.join(wrong.hosts)}, but its address is {there.host(4)}", RESTART)
    elif lacking := [pair for pair in (right["out"], right["in"]) if pair not in here.facts.agreed]:
        yield Finding(here.name, f"no keys agreed on with {there.name}",
                      f"no IPsec association from {' nor from '.join(' to '.join(pair) for pair in lacking)}: does charon run on "
                      "both, with the same PSK, and do UDP 500 and 4500 and ESP pass between them?", RESTART)


def _policy(here: Site, direction: str, source: IPNetwork, target: IPNetwork) -> IpsecPolicy | None:
    return next((each for each in here.facts.policies if each.direction == direction and any(each.hosts)
                 and (ip_network(each.source), ip_network(each.target)) == (source, target)), None)


def stale(scene: Scene) -> Iterator[Finding]:
    """No policy leads to another node for pods that no node has; a node of which nothing is known may have any."""
    if scene.missing:
        return
    known = {each for node in scene.objects.nodes for each in subnets_of(scene, node)}
    for here in sites(scene):
        for each in here.facts.policies if here.way == IPSEC else ():
            theirs = ip_network(each.target)
            if each.direction == "out" and any(each.hosts) and ip_network(each.source) in here.subnets and theirs not in known:
                yield Finding(here.name, f"an IPsec policy for {theirs}, which no node has", f"to {each.hosts[1]}",
                              f"ip xfrm policy delete src {each.source} dst {each.target} dir out")


def _pairs(scene: Scene) -> Iterator[tuple[Site, Site]]:
    known = [site for site in sites(scene) if site.way == IPSEC]
    return ((here, there) for here in known for there in known if here is not there)


SCENE_CHECKS = (policies, stale)
