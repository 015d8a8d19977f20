"""What a mode is: a `Layout` that says things in a packet filter's words, and a `Writer` that has them written.

    nftables   render/nftables.py, writers/nftables.py
    iptables   render/iptables.py, writers/iptables.py
    ipvs       render/ipvs.py, writers/ipvs.py, writers/virtual_servers.py

Whatever else the mode is not, is removed once it stands: `writers/takeover.py`. Read next: `proxy/target.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypeVar

from nodecore.errors import Fault, NotFound, Unsupported, UserError
from nodecore.kernel.nft import Nft
from nodecore.kernel.nftdump import set_names
from nodecore.kernel.nftnews import Children
from nodecore.net import Family

from .config import Config
from .ledger import Delta, Fragment
from .names import TRAFFIC_TABLE
from .render import iptables, ipvs, nftables
from .render.settings import Settings
from .snapshot import Route


class Layout(Protocol):
    """The words for one family. Pure."""

    @property
    def family(self) -> Family:
        """Whose addresses."""
        ...

    @property
    def where(self) -> str:
        """What is written, for logs."""
        ...

    def fragments(self, route: Route) -> list[Fragment]:
        """A Service port's part of the whole."""
        ...

    def full_script(self, everything: Delta) -> str:
        """The whole, put in the place of nothing."""
        ...

    def delta_script(self, delta: Delta) -> str:
        """What has changed."""
        ...


LayoutT = TypeVar("LayoutT", bound=Layout, contravariant=True)


class Writer(Protocol[LayoutT]):
    """What puts a layout's words into the kernel, and knows whether they are still there."""

    at_once: bool  # whether both families may be written at the same time

    async def intact(self, layout: LayoutT) -> bool:
        """Whether the whole is there as it was last written."""
        ...

    async def replace(self, layout: LayoutT, everything: Delta) -> None:
        """Make it the whole, whatever is there."""
        ...

    async def update(self, layout: LayoutT, delta: Delta) -> None:
        """Write what has changed since."""
        ...

    def forget(self) -> None:
        """Nothing is known to be there any more."""
        ...

    def news(self) -> AsyncIterator[None]:
        """Yields when somebody else may have changed what is ours. Never ends."""
        ...

    async def sweep(self) -> None:
        """Remove what other modes, and Go kube-proxy, have left here."""
        ...


def prepare(config: Config) -> None:
    """Ask the kernel for what the mode cannot do without."""
    if config.mode == "iptables" and config.traffic_metrics:
        need_counters()
    if config.mode != "ipvs":
        return
    from nodecore.kernel.ipvs import Ipvs
    from nodecore.kernel.virtualserver import Timeouts

    kernel, wanted = Ipvs(), config.ipvs
    try:
        kernel.set_timeouts(Timeouts(int(wanted.tcp), int(wanted.tcp_fin), int(wanted.udp)))
    except Unsupported as error:
        raise UserError(f"--proxy-mode: ipvs: {error}; use nftables or iptables") from None
    finally:
        kernel.close()


def need_counters() -> None:
    """Packets are counted by nft, in iptables mode too."""
    try:
        if not shutil.which("nft"):
            raise NotFound("nft is not installed")
        set_names(Family.IPV4, TRAFFIC_TABLE)
    except Fault as error:
        raise UserError(f"--traffic-metrics: in iptables mode packets are counted by nft: {error}") from None


def layouts(config: Config) -> Sequence[nftables.Layout | iptables.Layout | ipvs.Layout]:
    """The words for what was told, one per family."""
    settings = Settings(config.locality, config.node_port_addresses, config.masquerade_all, config.masquerade_mark,
                        config.traffic_metrics, config.loopback_node_ports, not config.conntrack.tcp_be_liberal)
    if config.mode == "ipvs":
        return [ipvs.Layout(family, settings, config.ipvs.scheduler) for family in config.families]
    kind = iptables.Layout if config.mode == "iptables" else nftables.Layout
    return [kind(family, settings) for family in config.families]


def writer(config: Config) -> Writer[nftables.Layout] | Writer[iptables.Layout] | Writer[ipvs.Layout]:
    """What writes them."""
    from nodecore.kernel.iptables import Iptables

    from .writers.iptables import IptablesWriter
    from .writers.nftables import NftablesWriter
    from .writers.takeover import Takeover

    children = Children()
    nft, chains = Nft(children=children), Iptables(children=children)
    takeover = Takeover(nft, chains, config.ipvs.excluded)
    if config.mode == "ipvs":
        from nodecore.kernel.ipvs import Ipvs
        from nodecore.kernel.netlink import KernelNetwork

        from .writers.ipvs import IpvsWriter

        return IpvsWriter(nft, takeover, config.families, Ipvs(), KernelNetwork(), config.ipvs.excluded)
    if config.mode == "iptables":
        return IptablesWriter(nft, chains, takeover, config.families)
    return NftablesWriter(nft, takeover, config.families)
