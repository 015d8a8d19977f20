"""The attendant of the extension backend: runs the operator's commands, peer by peer.

A command that fails for a peer is tried again a few times and then left: one that says "it is there already" would
fail for ever, and must not keep the others waiting. PostStartupCommand has to succeed, as in flannel.

Must not know: what the commands do. Read next: `flanneld_py/attend/commands.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flanneld_py.attend.commands import run_command
from flanneld_py.backends.extension import BothParts, ExtensionBackend, text_of, variables
from flanneld_py.lease import Lease, Part
from nodecore.errors import Fault
from nodecore.net import IPNetwork

log = logging.getLogger(__name__)

TRIES = 3


class ExtensionAttendant:
    """What was run for whom."""

    def __init__(self, backend: ExtensionBackend) -> None:
        self._backend = backend
        self._own: Lease | None = None
        self._peers: dict[IPNetwork, Part] = {}
        self._failures: dict[tuple[str, IPNetwork], int] = {}

    def serving(self) -> Lease | None:
        """The lease PostStartupCommand was run for."""
        return self._own

    def peers(self) -> tuple[Part, ...]:
        """The peers SubnetAddCommand was run for."""
        return tuple(self._peers.values())

    def mtu(self, counted: int) -> int:
        """That."""
        return counted

    async def start(self, own: Lease) -> None:
        """Run PostStartupCommand."""
        self._peers.clear()
        if self._backend.post_startup:
            environment = {"NETWORK": self._backend.network, **variables(own.parts)}
            await run_command("PostStartupCommand", self._backend.post_startup, environment)
        self._own = own

    async def add(self, peer: Part) -> None:
        """Run SubnetAddCommand."""
        await self._run("SubnetAddCommand", self._backend.subnet_add, peer, lambda: self._peers.update({peer.subnet: peer}))

    async def remove(self, peer: Part) -> None:
        """Run SubnetRemoveCommand."""
        await self._run("SubnetRemoveCommand", self._backend.subnet_remove, peer, lambda: self._peers.pop(peer.subnet, None))

    async def _run(self, what: str, command: str, peer: Part, done: Callable[[], object]) -> None:
        case = (what, peer.subnet)
        parts = [peer, *([peer.other] if isinstance(peer, BothParts) and peer.other else [])]
        try:
            if command:
                await run_command(f"{what} for {peer.subnet}", command, variables(parts), text_of(peer))
        except Fault as fault:
            self._failures[case] = self._failures.get(case, 0) + 1
            if self._failures[case] < TRIES:
                raise
            log.error("%s; given up after %d tries", fault, TRIES)
        self._failures.pop(case, None)
        done()

    async def close(self) -> None:
        """What the commands made stays."""
