"""Who is masqueraded, and that pods are forwarded: one list of rules, written as nftables or as iptables.

    N = the whole network, P = this node's subnet; the first line that fits decides

    marked 0x4000             as it is       kube-proxy masquerades it
    from P to N               as it is       pods see each other's own addresses
    from N to P               as it is
    from outside N to P       as it is       a pod sees who calls it through this node
    from N to anywhere        masquerade     pods on their way out
    from outside N to N       masquerade     this host, or somebody behind it, to a pod elsewhere: the answer must come back here

Go flanneld's nftables mode has `saddr != P daddr N` in the fourth place, which leaves nothing for the last line; its
iptables mode is right. The mark is a bit, so it is tested as a bit.

Pure. Must not know: nft, iptables. Read next: `flanneld_py/render/nftables.py`, `flanneld_py/rules.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_network

from nodecore.net import Family, IPNetwork

PROXY_MARK = "0x4000"


class Verdict(Enum):
    """What becomes of a packet that fits."""

    ACCEPT = "accept"
    RETURN = "return"
    MASQUERADE = "masquerade"


@dataclass(frozen=True, slots=True)
class Match:
    """An address within a network, or outside it."""

    network: IPNetwork
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: all that is given must fit."""

    verdict: Verdict
    source: Match | None = None
    destination: Match | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What a family's rules are to be; empty where it is switched off."""

    family: Family
    forward: tuple[Rule, ...] = ()
    masquerade: tuple[Rule, ...] = ()
    fully_random: bool = True
    untracked_ports: tuple[int, ...] = ()  # UDP ports whose packets need no connection tracking

    def __bool__(self) -> bool:
        return bool(self.forward or self.masquerade)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The rules of both families, and whether they are to be nftables or iptables."""

    sets: tuple[RuleSet, ...]
    nftables: bool = False


def desired_rules(
    family: Family, network: IPNetwork | None, subnet: IPNetwork | None, *,
    masquerade: bool, forward: bool, fully_random: bool, untracked_ports: tuple[int, ...] = (),
) -> RuleSet:
    """The rules of a family."""
    if network is None or subnet is None or not (masquerade or forward):
        return RuleSet(family)
    return RuleSet(
        family, _forward(network) if forward else (), _masquerade(family, network, subnet) if masquerade else (),
        fully_random, untracked_ports,
    )


def _forward(network: IPNetwork) -> tuple[Rule, ...]:
    return Rule(Verdict.ACCEPT, source=Match(network)), Rule(Verdict.ACCEPT, destination=Match(network))


def _masquerade(family: Family, network: IPNetwork, subnet: IPNetwork) -> tuple[Rule, ...]:
    pods, ours, outside = Match(network), Match(subnet), Match(network, outside=True)
    return (
        Rule(Verdict.RETURN, mark=PROXY_MARK),
        Rule(Verdict.RETURN, ours, pods),
        Rule(Verdict.RETURN, pods, ours),
        Rule(Verdict.RETURN, outside, ours),
        Rule(Verdict.MASQUERADE, pods, Match(ip_network(family.multicast), outside=True)),
        Rule(Verdict.MASQUERADE, outside, pods),
    )
