"""What the agent needs of a place where leases are kept.

Pure. Must not know: etcd or Kubernetes. Read next: `flanneld_py/store/etcd.py`, `flanneld_py/store/kube.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import NetConf
from nodecore.net import Family, IPAddress, IPNetwork

UP = "Flannel is running on this node"
BackendData = Callable[[Family, Part | None], Mapping[str, Any]]  # from what our lease said before to what it should say
Recognises = Callable[[Part], bool]  # whether a lease tells what only this node can have told


@dataclass(frozen=True, slots=True)
class Wish:
    """What we would like to have: our addresses, the subnets of an earlier life, and what peers should know.

    `held` is the lease that is ours until now, whatever address it tells.
    """

    conf: NetConf
    public: Mapping[Family, IPAddress]
    previous: tuple[IPNetwork, ...]
    data: BackendData
    backend: str = "vxlan"
    held: Lease | None = None
    recognises: Recognises = lambda part: False


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that is ours; `handle` is the store's own, 0 for a reservation, which never ends."""

    lease: Lease
    handle: int
    revision: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether the network of this node works for others too, and why."""

    works: bool = True
    reason: str = "FlannelIsUp"
    message: str = UP


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every lease there was at a revision, by key."""

    leases: Mapping[str, Lease]
    revision: int


class LeaseStore(Protocol):
    """A place where leases are kept."""

    async def config(self) -> str | None:
        """The network configuration's text, None while nobody has written one."""
        ...

    async def public_addresses(self) -> Mapping[Family, IPAddress]:
        """The addresses peers are to use that are written down there for this node; they go before the flags."""
        ...

    async def preview(self, wish: Wish) -> Lease:
        """The lease `acquire` would take, taking nothing."""
        ...

    async def acquire(self, wish: Wish) -> Held:
        """Make a lease ours, or find that one is."""
        ...

    async def renew(self, held: Held) -> float:
        """Start its time anew and return the seconds; `NotFound` when it has ended."""
        ...

    async def announce(self, standing: Standing) -> None:
        """Tell everybody how this node is, where there is a place for that."""
        ...

    def watch(self) -> AsyncIterator[Snapshot]:
        """All leases now, and again after every change. Never ends."""
        ...
