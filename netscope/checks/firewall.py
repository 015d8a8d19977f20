"""Two kinds of iptables on one node, which do not see one another; programs too old.

Pure. What rules do to packets is looked at by `journeys.py`. Read next: `cluster.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from netscope.checks.cluster import Cluster
from netscope.facts import Finding
from netscope.walk.packet import PROXIES

NFT, KERNEL = (1, 0, 1), (5, 13)
LEADING = re.compile(r"\d+(\.\d+)*")


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


def versions(cluster: Cluster) -> Iterator[Finding]:
    """Where a proxy writes nftables, nft and kernel know the maps it needs."""
    for node, facts in cluster.items():
        if not any(item.get("table", {}).get("name") in PROXIES for item in facts.rules.nft):
            continue
        nft = next((str(item["metainfo"]["version"]) for item in facts.rules.nft if "metainfo" in item), "")
        for what, have, least in (("nft", nft, NFT), ("the kernel", facts.settings.kernel, KERNEL)):
            if have and _numbers(have) < least:
                yield Finding(node, f"{what} is too old for a Service proxy in nftables mode",
                              f"{have}, {'.'.join(map(str, least))} is needed")


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    found = LEADING.match(text)
    return tuple(map(int, found[0].split("."))) if found else ()


CHECKS = (two_iptables, versions)
