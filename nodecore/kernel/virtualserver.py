"""What IPVS holds, as frozen records: virtual servers, and the destinations behind them.

Pure. Read next: `nodecore/kernel/ipvs.py` (the kernel) and `nodecore/kernel/fakeipvs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nodecore.net import Family


@dataclass(frozen=True, slots=True, order=True)
class ServerKey:
    """Where callers send to: what makes two virtual servers the same."""

    address: str
    protocol: str
    port: int

    @property
    def family(self) -> Family:
        """That of the address."""
        return Family.IPV6 if ":" in self.address else Family.IPV4

    def describe(self) -> str:
        """As `ipvsadm` is told it."""
        return f"--{self.protocol}-service {_place(self.address, self.port)}"


@dataclass(frozen=True, slots=True, order=True)
class Server:
    """A virtual server; with `persistence`, clients are kept at their destination for so many seconds."""

    key: ServerKey
    scheduler: str = "rr"
    persistence: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Destination:
    """Who may answer for a server.

    Only ever read: the `connections` it has, and packets and bytes that `arrived` there or were `answered`.
    """

    server: ServerKey
    address: str
    port: int
    weight: int = 1
    connections: int = field(default=0, compare=False)
    arrived: tuple[int, int] = field(default=(0, 0), compare=False)
    answered: tuple[int, int] = field(default=(0, 0), compare=False)

    @property
    def key(self) -> tuple[ServerKey, str, int]:
        """What makes two of them the same."""
        return (self.server, self.address, self.port)

    def describe(self) -> str:
        """Its address and port."""
        return _place(self.address, self.port)


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds until an idle connection is forgotten; 0 for what is to stay as it is."""

    tcp: int = 0
    tcp_fin: int = 0
    udp: int = 0
