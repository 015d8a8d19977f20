"""What the flags say that ends up in rules, whatever the mode.

Pure. Read next: `proxy/render/nftables.py`, `proxy/render/iptables.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from nodecore.net import IPNetwork

from .. import names
from ..config import Locality

ANYWHERE = Locality()


@dataclass(frozen=True, slots=True)
class Settings:
    """How a pod is told from others, where NodePorts answer, what is masqueraded and by which mark, whether to count."""

    locality: Locality = ANYWHERE
    node_port_addresses: tuple[IPNetwork, ...] = ()
    masquerade_all: bool = False
    mark: int = names.MASQUERADE_MARK
    count_traffic: bool = False
    loopback_node_ports: bool = False  # of iptables mode, as the next one
    drop_invalid: bool = False  # packets that belong to no connection; else they are tracked liberally


UNSAID = Settings()
