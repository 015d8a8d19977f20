"""Two kinds of iptables on one node, which do not see one another. What rules do to packets is looked at by `journeys.py`.

Pure. Read next: `cluster.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from netscope.checks.cluster import Cluster
from netscope.facts import Finding


def two_iptables(cluster: Cluster) -> Iterator[Finding]:
    """One iptables, not two: what one writes the other does not list, and both are in force."""
    for node, facts in cluster.items():
        used = {variant: {name.split()[1] for name, text in facts.rules.iptables.items()
                          if name.startswith(variant) and any(map(_says_something, text.splitlines()))}
                for variant in ("nft", "legacy")}
        if both := sorted(used["nft"] & used["legacy"]):
            yield Finding(node, "iptables-legacy and iptables-nft are both in use", f"both have rules for {', '.join(both)}",
                          "update-alternatives --config iptables")


def _says_something(line: str) -> bool:
    """A rule, or a policy that drops; tables without any are left behind by whoever looked at them."""
    return line.startswith("-A ") or (line.startswith(":") and line.split()[1] == "DROP")


CHECKS = (two_iptables,)
