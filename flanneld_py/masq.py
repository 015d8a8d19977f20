"""The nftables tables `ip flannel-ipv4` and `ip6 flannel-ipv6`: who is masqueraded, and that pods are forwarded.

    N = the whole network, P = this node's subnet; the first line that fits decides

    marked 0x4000             as it is       kube-proxy masquerades it
    from P to N               as it is       pods see each other's own addresses
    from N to P               as it is
    from outside N to P       as it is       a pod sees who calls it through this node
    from N to anywhere        masquerade     pods on their way out
    from outside N to N       masquerade     this host, or somebody behind it, to a pod elsewhere: the answer must come back here

The tunnel's own packets are kept out of connection tracking: the packets inside are tracked anyway, and no rule asks about
the outer ones. That is worth several percent of throughput (`lab bench throughput`).

Go flanneld's nftables mode has `saddr != P daddr N` in the fourth place, which leaves nothing for the last line.
The mark is a bit, so it is tested as a bit.

Pure. Must not know: nft. Read next: `flanneld_py/plan.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nodecore.net import Family, IPNetwork

PROXY_MARK = "0x4000"


@dataclass(frozen=True, slots=True)
class Table:
    """An nftables table of ours: its name and the script that makes it; no script means it is to go."""

    family: str
    name: str
    script: str = ""

    @property
    def key(self) -> str:
        """`family name`, as the nft monitor says it."""
        return f"{self.family} {self.name}"


def desired_table(
    family: Family, network: IPNetwork | None, subnet: IPNetwork | None, *,
    masquerade: bool, forward: bool, fully_random: bool, untracked_ports: Sequence[int] = (),
) -> Table:
    """The table of a family; empty when it is switched off. `untracked_ports` are the tunnel's UDP ports."""
    name = f"flannel-ipv{family.value}"
    if network is None or subnet is None or not (masquerade or forward):
        return Table(family.nft, name)
    chains = []
    if forward:
        chains.append(_chain("forward", "type filter hook forward priority filter; policy accept;", _forward(family, network)))
    if masquerade:
        rules = _masquerade(family, network, subnet, fully_random=fully_random)
        chains.append(_chain("postrtg", "type nat hook postrouting priority srcnat; policy accept;", rules))
    if untracked_ports:
        rules = [f"udp dport {port} notrack" for port in untracked_ports]
        for hook in ("prerouting", "output"):
            head = f"type filter hook {hook} priority raw; policy accept;"
            chains.append(_chain(f"untracked-{hook}", head, rules))
    head = f"table {family.nft} {name}"
    return Table(family.nft, name, f"add {head}\ndelete {head}\n{head} {{\n" + "\n".join(chains) + "}\n")


def _chain(name: str, head: str, rules: list[str]) -> str:
    return f"\tchain {name} {{\n\t\t{head}\n" + "".join(f"\t\t{rule}\n" for rule in rules) + "\t}\n"


def _forward(family: Family, network: IPNetwork) -> list[str]:
    return [f"{family.nft} saddr {network} accept", f"{family.nft} daddr {network} accept"]


def _masquerade(family: Family, network: IPNetwork, subnet: IPNetwork, *, fully_random: bool) -> list[str]:
    ip = family.nft
    masquerade = "masquerade fully-random" if fully_random else "masquerade"
    return [
        f"meta mark & {PROXY_MARK} == {PROXY_MARK} return",
        f"{ip} saddr {subnet} {ip} daddr {network} return",
        f"{ip} saddr {network} {ip} daddr {subnet} return",
        f"{ip} saddr != {network} {ip} daddr {subnet} return",
        f"{ip} saddr {network} {ip} daddr != {family.multicast} {masquerade}",
        f"{ip} saddr != {network} {ip} daddr {network} {masquerade}",
    ]
