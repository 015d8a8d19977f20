"""Extension: the operator's own commands make the way to each peer; we only say when.

    PreStartupCommand    before the lease; what it prints becomes our lease's data, a JSON text
    PostStartupCommand   once we have the lease:   NETWORK, SUBNET, IPV6SUBNET, PUBLIC_IP, PUBLIC_IPV6
    SubnetAddCommand     for each peer:            SUBNET, IPV6SUBNET, PUBLIC_IP, PUBLIC_IPV6; its data on stdin
    SubnetRemoveCommand  when it has gone:         the same

Pure: which values a command gets. Must not know: processes. Read next: `flanneld_py/attend/extension.py`, which runs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flanneld_py.backends.port import Backend, peer_parts
from flanneld_py.iface import Underlay
from flanneld_py.lease import TEXT, Lease, Part
from flanneld_py.netconf import NetConf, option
from nodecore.kernel.model import NetState
from nodecore.net import Family

VARIABLES = {Family.IPV4: ("SUBNET", "PUBLIC_IP"), Family.IPV6: ("IPV6SUBNET", "PUBLIC_IPV6")}


@dataclass(frozen=True, slots=True)
class BothParts(Part):
    """A peer with all its families, since one command serves them together; `other` is the second one."""

    other: Part | None = None


@dataclass(frozen=True)
class ExtensionBackend(Backend):
    """The four commands, each empty where there is none."""

    type: ClassVar[str] = "extension"
    attendant: ClassVar[bool] = True

    pre_startup: str = ""
    post_startup: str = ""
    subnet_add: str = ""
    subnet_remove: str = ""
    network: str = ""
    data: str = ""

    def lease_data(self, family: Family, identity: str) -> Mapping[str, Any]:
        """What PreStartupCommand printed."""
        return {TEXT: self.data} if self.data else {}

    def desired(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> NetState:
        """Nothing: the kernel is the commands'."""
        return NetState()

    def attended(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> tuple[Part, ...]:
        """Every peer, whole."""
        peers = (tuple(peer_parts(own, lease, self.type)) for lease in leases)
        return tuple(
            BothParts(parts[0].subnet, parts[0].public_ip, parts[0].data, parts[1] if parts[1:] else None)
            for parts in peers if parts
        )


def parse_extension(conf: NetConf) -> ExtensionBackend:
    """Read the options; raises `UserError` naming the key."""
    pre, post, add, remove = (
        option(conf.options, f"{name}Command", str, "") for name in ("PreStartup", "PostStartup", "SubnetAdd", "SubnetRemove")
    )
    block = conf.block(Family.IPV4)
    return ExtensionBackend(pre, post, add, remove, network=str(block.network) if block else "")


def variables(parts: Sequence[Part]) -> dict[str, str]:
    """What a command is told of a lease; a family that is missing is empty."""
    found = {name: "" for names in VARIABLES.values() for name in names}
    for part in parts:
        subnet, public = VARIABLES[part.family]
        found |= {subnet: str(part.subnet), public: str(part.public_ip or "")}
    return found


def text_of(part: Part) -> str:
    """The data a peer's command gets on stdin."""
    return str(part.data.get(TEXT, ""))
