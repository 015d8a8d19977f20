"""The nodes' facts together, and what one node's tell about another: where its tunnel ends and which subnet is behind it.

Pure. Read next: `tunnels.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from netscope.facts import Facts, Finding, Link


@dataclass(frozen=True, slots=True)
class Vtep:
    """A node's end of the VXLAN: the device's MAC and address (its subnet's first), and the host address it sends from."""

    node: str
    link: Link
    address: str

    @property
    def host(self) -> str:
        """The address its packets come from and go to."""
        return self.link.tunnel_from

    @property
    def vni(self) -> int:
        """Which VXLAN."""
        return int(self.link.linkinfo.info_data.get("id", 0))

    @property
    def port(self) -> int:
        """UDP, on every host."""
        return int(self.link.linkinfo.info_data.get("port", 0))

    @property
    def parent(self) -> str:
        """The link its packets leave by."""
        return str(self.link.linkinfo.info_data.get("link", ""))


Cluster = Mapping[str, Facts]
Check = Callable[[Cluster], Iterator[Finding]]


def vteps(cluster: Cluster) -> list[Vtep]:
    """Every VXLAN device that has an address."""
    return [Vtep(node, link, info.local) for node, facts in cluster.items() for link in facts.links_of("vxlan")
            for info in facts.addresses_of(link.ifname)[:1]]
