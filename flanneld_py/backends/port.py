"""What a backend is: options in, kernel records out, so that the rest of the daemon knows no kind of tunnel.

    vxlan.py hostgw.py alloc.py ...    one class each: a frozen dataclass of its checked options
    choice.py                          from `Backend.Type` to such a class, and every device name any of them uses

A new backend subclasses `Backend`, sets what differs from the defaults below and adds itself to the table in choice.py,
and a row to that of tests/flanneld/backend_rows.py, which asks it what every one is asked.
Peers that no kernel record can serve (a user's commands, a daemon of its own) are named by `attended`; who serves
them lives in `flanneld_py/attend`.

Pure. Must not know: netlink, etcd, processes. Read next: `flanneld_py/backends/vxlan.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part
from nodecore.kernel.model import NetState
from nodecore.net import Family

T = TypeVar("T")


class Backend(Protocol):
    """A way for packets from node to node; the defaults are those of one that needs only routes."""

    type: ClassVar[str]
    families: ClassVar[frozenset[Family]] = frozenset(Family)  # a configured one outside is refused by name
    devices: ClassVar[str] = ""  # a regular expression for the names of all devices it makes, with whatever options
    attendant: ClassVar[bool] = False  # whether its peers are served by an `Attendant`

    @property
    def lease_type(self) -> str:
        """What our lease says of it, which is how peers of the same kind are known."""
        return self.type

    @property
    def untracked_ports(self) -> tuple[int, ...]:
        """UDP ports of the tunnel, kept out of connection tracking."""
        return ()

    def check(self, underlay: Underlay) -> None:
        """Refuse an underlay it cannot work on; raises `UserError` naming the flag."""
        return

    def mtu(self, underlay: Underlay) -> int:
        """The MTU of pods."""
        return underlay.mtu

    def lease_data(self, family: Family, identity: str) -> Mapping[str, Any]:
        """What peers need to know of us; `identity` is what identity.py found: a MAC, a public key, or nothing."""
        return {}

    def desired(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> NetState:
        """Everything the kernel is to hold of it."""
        ...

    def attended(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> tuple[Part, ...]:
        """The peers an attendant serves; none for a backend the kernel does alone."""
        return ()

    def remarks(self, own: Lease, leases: Sequence[Lease], underlay: Underlay) -> Iterable[str]:
        """What the user should be told of these leases, once."""
        return ()


def peer_parts(own: Lease, lease: Lease, backend: str) -> Iterator[Part]:
    """What makes a lease a peer of ours: the same backend, another address than ours, a subnet apart from ours."""
    if lease.backend != backend:
        return
    for mine in own.parts:
        part = lease.part(mine.family)
        if part and part.public_ip and part.public_ip != mine.public_ip and not part.subnet.overlaps(mine.subnet):
            yield part


class Memory(Generic[T]):
    """What was made of each lease, kept as long as the lease object and the circumstances are the same.

    A pass after one of a thousand peers has changed makes one peer's records; the others' are the very same objects,
    which is also what makes comparing states quick.
    """

    def __init__(self) -> None:
        self._circumstances: object = None
        self._made: dict[int, tuple[Lease, T]] = {}

    def each(self, circumstances: object, leases: Iterable[Lease], make: Callable[[Lease], T]) -> list[T]:
        """`make(lease)` for each, remembered."""
        before = self._made if circumstances == self._circumstances else {}
        self._circumstances = circumstances
        self._made = {id(lease): before.get(id(lease)) or (lease, make(lease)) for lease in leases}
        return [made for _, made in self._made.values()]
