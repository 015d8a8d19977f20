"""Who serves peers that no kernel record can: a forwarding process, a daemon that is told, a user's commands.

The daemon compares `peers()` with what its backend calls `attended`, and says add or remove like for any other record.
Which attendant a backend has: `flanneld_py/attend/choice.py`.

Must not know: etcd, netlink. Read next: that.
"""

from __future__ import annotations

from typing import Protocol

from flanneld_py.lease import Lease, Part


class Attendant(Protocol):
    """Serves peers, one at a time; every call may raise a `Fault` and is then made again later."""

    def serving(self) -> Lease | None:
        """The lease of ours it was started for; None before `start`, and when what it started has died."""
        ...

    def mtu(self, counted: int) -> int:
        """The MTU of pods, where the backend counted on this one."""
        ...

    async def start(self, own: Lease) -> None:
        """Be there for this lease of ours; whatever was served for another one is forgotten."""
        ...

    def peers(self) -> tuple[Part, ...]:
        """The peers it serves now."""
        ...

    async def add(self, peer: Part) -> None:
        """Serve a peer; one with the same subnet is replaced."""
        ...

    async def remove(self, peer: Part) -> None:
        """Serve it no longer."""
        ...

    async def close(self) -> None:
        """The daemon ends: leave the data path as it is where that is possible."""
        ...
