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

from collections.abc import Callable, Sequence
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
    network: IPNetwork | None = None
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
    """The rules of a family. Only masquerading has the kernel track connections: without it nothing is to be kept out of that."""
    if network is None or subnet is None or not (masquerade or forward):
        return RuleSet(family, network)
    return RuleSet(
        family, network, _forward(network) if forward else (), _masquerade(family, network, subnet) if masquerade else (),
        fully_random, untracked_ports if masquerade else (),
    )


def of_another_network(addresses: Sequence[tuple[str, str]], rules: RuleSet) -> bool:
    """Whether a rule is for the network of another flanneld on this host, by its addresses, each with its "not" before it.

    One must be named without "not", and none may have to do with our network.
    """
    try:
        named = [ip_network(address) for _, address in addresses]
    except ValueError:
        return False
    positive = any(not outside for outside, _ in addresses)
    return positive and not any(rules.network and network.overlaps(rules.network) for network in named)


def share_out(
    lines: Sequence[str], is_another: Callable[[str], bool], mark: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A chain's rules: ours and those of other networks. The rule with `mark` is whose the chain would be without it."""
    others = tuple(filter(is_another, lines))
    own = tuple(line for line in lines if line not in others)
    if others and all(mark in line for line in own):
        return (), tuple(lines)
    return own, others


def beside(own: Sequence[str], others: Sequence[str], mark: str) -> list[str]:
    """Our rules and those of other networks in one chain, with `mark` once."""
    return [*own, *(line for line in others if not own or mark not in line)]


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
