"""The attendant of the ipsec backend: tells charon of each peer, and starts charon anew when it has ended.

A charon of an earlier life has connections already: they carry traffic until they are written again, which changes
nothing where they are the same, or removed, when their peer has gone.

Must not know: etcd. Read next: `flanneld_py/attend/charon.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from flanneld_py.attend.charon import Charon
from flanneld_py.backends.ipsec import (
    IpsecBackend,
    child_name,
    connection,
    connection_name,
    fence,
    is_of,
    named_parts,
    shared_key,
)
from flanneld_py.lease import Lease, Part
from nodecore.errors import Fault, Invalid, Unreachable
from nodecore.loop.backoff import Backoff
from nodecore.net import Family, IPNetwork

log = logging.getLogger(__name__)

FIRST_LOOK, LAST_LOOK = 2.0, 60.0  # seconds
CALM = 4  # where the pace is when all is well
USER_SPACE, USER_SPACE_MTU = "kernel-libipsec", 1400
NO_LIMIT = 65535
INHERITED = {"inherited": True}  # unlike any peer's data: so it is written again


class IpsecAttendant:
    """What charon knows of us."""

    def __init__(self, backend: IpsecBackend, changed: Callable[[], None]) -> None:
        self._backend, self._changed = backend, changed
        self._charon = Charon()
        self._own: Lease | None = None
        self._peers: dict[IPNetwork, Part] = {}
        self._watch: asyncio.Task[None] | None = None
        self._room = NO_LIMIT

    def serving(self) -> Lease | None:
        """The lease charon was told, None when it has ended since."""
        return self._own

    def peers(self) -> tuple[Part, ...]:
        """The peers charon was told, by us or by an earlier life."""
        return tuple(self._peers.values())

    @property
    def _part(self) -> Part:
        part = self._own.part(Family.IPV4) if self._own else None
        assert part
        return part

    def mtu(self, counted: int) -> int:
        """That, but no more than the device takes that charon has for ESP in user space."""
        return min(counted, self._room)

    async def start(self, own: Lease) -> None:
        """Have a charon that knows our key; what it was told for another lease is taken back."""
        await self._charon.ensure()
        self._room = await room(self._charon)
        if self._own and self._own != own:
            for peer in self.peers():
                await self.remove(peer)
        self._own = own
        await self._charon.ask("load-shared", shared_key(self._backend, self._part))
        await self._charon.ask("load-conn", fence(self._backend, self._part))
        self._peers.clear()
        for us, peer in await connections(self._charon, self._backend.network):
            if (us.subnet, us.public_ip) == (self._part.subnet, self._part.public_ip):
                self._peers[peer.subnet] = replace(peer, data=INHERITED)
            else:
                await forget(self._charon, connection_name(us, peer))
        if self._peers:
            self._changed()  # look again: some of them may have gone meanwhile
        if not self._watch:
            self._watch = asyncio.create_task(self._watch_over(), name="charon")

    async def _watch_over(self) -> None:
        """Until charon ends: see that there are tunnels, for it tries only once where the other side is not ready yet."""
        keeping = asyncio.create_task(self._keep_up(), name="charon's tunnels")
        try:
            await self._charon.until_gone()
        finally:
            keeping.cancel()
        log.error("charon has ended")
        self._watch = self._own = None
        self._peers.clear()
        self._changed()

    async def _keep_up(self) -> None:
        pace = Backoff(first=FIRST_LOOK, cap=LAST_LOOK)
        while True:
            await asyncio.sleep(pace.next())
            try:
                if not await self._initiate_missing():
                    pace.failures = CALM
            except Fault as fault:
                log.warning("cannot look after charon's tunnels: %s", fault)

    async def _initiate_missing(self) -> int:
        """Ask for every tunnel that is not there; says how many."""
        wanted = {connection_name(self._part, peer): child_name(self._part, peer) for peer in self.peers()}
        missing = wanted.keys() - await self._charon.tunnels()
        for name in sorted(missing):
            log.debug("no tunnel yet: %s", name)
            with suppress(Invalid):
                await self._charon.ask("initiate", {"ike": name, "child": wanted[name], "timeout": "-1"})
        return len(missing)

    async def add(self, peer: Part) -> None:
        """Tell charon the key and the connection."""
        known = self._peers.get(peer.subnet)
        if known and known.public_ip != peer.public_ip:
            await self.remove(known)
        await self._charon.ask("load-shared", shared_key(self._backend, peer))
        await self._charon.ask("load-conn", connection(self._backend, self._part, peer))
        self._peers[peer.subnet] = peer

    async def remove(self, peer: Part) -> None:
        """Have charon forget the connection, end what came of it, and forget the key."""
        await forget(self._charon, connection_name(self._part, peer))
        with suppress(Invalid):  # it is not there
            await self._charon.ask("unload-shared", {"id": shared_key(self._backend, peer)["id"]})
        self._peers.pop(peer.subnet, None)

    async def close(self) -> None:
        """Charon goes on, and the tunnels with it."""
        if self._watch:
            self._watch.cancel()


async def room(charon: Charon) -> int:
    """The MTU its tunnels may have, whatever the way out has."""
    return USER_SPACE_MTU if USER_SPACE in await charon.plugins() else NO_LIMIT


async def connections(charon: Charon, network: IPNetwork) -> list[tuple[Part, Part]]:
    """Us and the peer of each connection a charon has for a network."""
    names = (await charon.ask("get-conns"))["conns"]
    found = (named_parts(name.decode()) for name in names)
    return [parts for parts in found if parts and parts[0].subnet.subnet_of(network)]  # type: ignore[arg-type]


async def forget(charon: Charon, name: str) -> None:
    """Have charon forget a connection, and end what came of it."""
    for command, message in (("unload-conn", {"name": name}), ("terminate", {"ike": name, "force": "yes", "timeout": "-1"})):
        with suppress(Invalid):  # it is not there
            await charon.ask(command, message)


async def left_over(charon: Charon, network: IPNetwork | None) -> list[str]:
    """The connections of a network that charon has, its fence included; without a network, flannel's of any."""
    names = [name.decode() for name in (await charon.ask("get-conns"))["conns"]]
    return [name for name in names if is_of(name, network)]


async def withdraw(network: IPNetwork | None, *, rehearsal: bool = False) -> list[str]:
    """Take away what an earlier life with this backend told a charon: no other backend's packets are for it. Tells the names."""
    charon = Charon()
    try:
        names = await left_over(charon, network)
    except Unreachable:
        return []
    for name in names if not rehearsal else ():
        await forget(charon, name)
    return names
