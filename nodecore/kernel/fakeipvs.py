"""IPVS in memory that refuses what the kernel refuses; connections are whatever a test says they are.

The contract tests (tests/kernel/test_ipvs.py) run against this and, in the virtual machine, against the kernel.
Must not know: netlink. Read next: `nodecore/kernel/ipvs.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from nodecore.errors import Fault, Invalid, NotFound
from nodecore.kernel.virtualserver import Destination, Server, ServerKey, Timeouts

SCHEDULERS = {"rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq"}
DestinationKey = tuple[ServerKey, str, int]


class FakeIpvs:
    """Virtual servers and destinations by key."""

    def __init__(self) -> None:
        self.made: dict[ServerKey, Server] = {}
        self.behind: dict[DestinationKey, Destination] = {}
        self.connections: dict[DestinationKey, int] = {}
        self.timeouts = Timeouts()

    def servers(self) -> list[Server]:
        """All there are."""
        return list(self.made.values())

    def destinations(self, servers: Iterable[ServerKey]) -> list[Destination]:
        """Who answers for these."""
        wanted = set(servers)
        return [replace(item, connections=self.connections.get(item.key, 0)) for item in self.behind.values()
                if item.server in wanted]

    def put_servers(self, servers: Sequence[Server]) -> list[Fault | None]:
        """Add or change."""
        return [self._put_server(server) for server in servers]

    def _put_server(self, server: Server) -> Fault | None:
        if server.scheduler not in SCHEDULERS:
            return NotFound("netlink: No such file or directory")
        if not server.key.port and not server.persistence:
            return Invalid("netlink: Invalid argument")
        self.made[server.key] = server
        return None

    def put_destinations(self, destinations: Sequence[Destination]) -> list[Fault | None]:
        """Add or change."""
        return [self._put_destination(item) for item in destinations]

    def _put_destination(self, item: Destination) -> Fault | None:
        if item.server not in self.made:
            return NotFound("netlink: No such process")
        self.behind[item.key] = item
        return None

    def remove_servers(self, keys: Sequence[ServerKey]) -> list[Fault | None]:
        """Remove with all that is behind them."""
        for key in keys:
            self.made.pop(key, None)
        self.behind = {key: item for key, item in self.behind.items() if item.server in self.made}
        return [None for _ in keys]

    def remove_destinations(self, destinations: Sequence[Destination]) -> list[Fault | None]:
        """Remove."""
        for item in destinations:
            self.behind.pop(item.key, None)
        return [None for _ in destinations]

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Note what is not 0."""
        self.timeouts = Timeouts(
            timeouts.tcp or self.timeouts.tcp, timeouts.tcp_fin or self.timeouts.tcp_fin, timeouts.udp or self.timeouts.udp)

    def close(self) -> None:
        """Nothing is open."""
