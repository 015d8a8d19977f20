"""Base chains that drop what no rule has judged, and two kinds of iptables that do not see one another.

Pure. Read next: `cluster.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from netscope.checks.cluster import Cluster
from netscope.facts import Finding

IPTABLES_TABLES = ("filter", "nat", "mangle", "raw")


def policies(cluster: Cluster) -> Iterator[Finding]:
    """Forwarded packets are not dropped for want of a rule."""
    for node, facts in cluster.items():
        for chain in facts.chains:
            if chain.hook == "forward" and chain.policy == "drop":
                place = f"{chain.family} {chain.table} {chain.name}"
                yield Finding(node, "forwarded packets are dropped unless a rule takes them", f"policy drop of {place}",
                              f"nft chain {place} '{{ policy accept; }}'")


def two_iptables(cluster: Cluster) -> Iterator[Finding]:
    """One iptables, not two: what one writes the other does not list, and both are in force."""
    for node, facts in cluster.items():
        ours = {chain.table for chain in facts.chains if chain.table in IPTABLES_TABLES and chain.name.isupper()}
        both = sorted(ours & set(facts.legacy))
        if both:
            yield Finding(node, "iptables-legacy and iptables-nft are both in use", f"both have {', '.join(both)}",
                          "update-alternatives --display iptables")


CHECKS = (policies, two_iptables)
