"""What every request handler shares: the storage, a watch cache for each kind, the allocator.

A cache is started when somebody first asks for it; those of EAGER kinds, which most requests need, at once.
Must not know: HTTP. Read next: `verbs/reading.py`, `verbs/writing.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

from minik8s.apiserver.kinds import converting
from minik8s.apiserver.kinds.catalogue import BY_PLURAL, Kind
from minik8s.apiserver.kinds.registry import Registry
from minik8s.apiserver.request.call import Call
from minik8s.apiserver.request.seats import vital
from minik8s.apiserver.request.status import not_found
from minik8s.apiserver.storage.allocate import Allocator
from minik8s.apiserver.storage.compaction import compact_for_ever
from minik8s.apiserver.storage.feed import Feed
from minik8s.apiserver.storage.lifetimes import Lifetime
from minik8s.apiserver.storage.objects import Storage
from minik8s.apiserver.storage.watchcache import WatchCache
from nodecore.errors import NotFound
from nodecore.etcd.client import EtcdClient
from nodecore.loop.rounds import Rounds

Object = dict[str, Any]
SHORT, LONG = 200, 4
EAGER = ("namespaces", "nodes", "pods", "services", "endpoints", "endpointslices", "secrets", "serviceaccounts", "clusterroles",
         "clusterrolebindings", "roles", "rolebindings")


class Gate(Protocol):
    """What a write passes before it is stored (`admission/`)."""

    async def shape(self, call: Any, kind: Kind, obj: Object) -> None:
        """Complete an object that is about to be created."""
        ...

    async def check_new(self, call: Any, kind: Kind, obj: Object) -> None:
        """Refuse an object that may not be created."""
        ...

    def check_change(self, call: Any, kind: Kind, old: Object, new: Object) -> None:
        """Refuse a change that may not be made."""
        ...

    async def is_asked_about(self, call: Any, kind: Kind, operation: str) -> bool:
        """Whether others have to be asked about a change or a deletion."""
        ...

    async def ask_about(self, call: Any, kind: Kind, old: Object, new: Object) -> Object:
        """What they make of it."""
        ...


class Cluster:
    """The objects of the cluster this server serves; whatever a client writes passes the `gate`."""

    gate: Gate | None = None

    def __init__(self, etcd: EtcdClient, allocator: Allocator, *, passing_after: float) -> None:
        self.etcd, self.allocator = etcd, allocator
        self.storage = Storage(etcd)
        self.registry = Registry()
        self._lifetime = Lifetime(etcd, passing_after)
        self.feed = Feed(etcd)
        self.caches: dict[tuple[str, str, str], WatchCache] = {}
        self._pieces, self._long = Rounds(1), asyncio.Semaphore(LONG)
        self.settled = asyncio.Event()  # every definition there was at the start is served
        self._needed = [self.cache(BY_PLURAL[plural]) for plural in EAGER]

    def cache(self, kind: Kind) -> WatchCache:
        """The watch cache of a kind, which may have yet to fill."""
        found = self.caches.get(kind.place)
        if found is None:
            show = partial(converting.shown, kind) if kind.kept or kind.custom else None
            found = self.caches[kind.place] = self.feed.cache(kind.prefix, show=show)
        return found

    def begun(self, kind: Kind) -> WatchCache | None:
        """The same, if somebody has asked for it before."""
        return self.caches.get(kind.place)

    async def lease(self, kind: Kind) -> int:
        """What an object of that kind hangs on when it is written now; 0 for those that stay."""
        return await self._lifetime.lease() if kind.passing else 0

    @property
    def synced(self) -> bool:
        """Whether every cache that requests of all kinds need has caught up with etcd once."""
        return all(cache.synced for cache in self._needed)

    async def ready(self) -> None:
        """Wait until that is so."""
        for cache in self._needed:
            await cache.ready()

    def turn(self, call: Call) -> AbstractAsyncContextManager[None]:
        """What a list is made in: of long ones a few at a time, lest all others wait for all of them."""
        cache = self.begun(call.kind)
        if cache is None or len(cache) <= SHORT or vital(call.user, call.target):
            return nullcontext()
        return self._long

    async def breathe(self) -> None:
        """Between two pieces of what a watch begins with: of all watches one piece is made in each round of the loop."""
        await self._pieces.turn()

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What must run for ever."""
        return {
            "feed": self.feed.run(), "compaction": compact_for_ever(self.etcd),
            "allocations": self.allocator.repair_for_ever(self.storage, BY_PLURAL["services"].prefix),
        }

    def forget(self, kind: Kind) -> None:
        """A kind is served no more: its cache goes, and its watchers with it."""
        cache = self.caches.pop(kind.place, None)
        if cache is not None:
            self.feed.drop(cache)

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """One object as it is now; 404 as the original words it."""
        try:
            return converting.shown(kind, await self.storage.get(kind.key(namespace, name)))
        except NotFound:
            raise not_found(kind.resource.plural, kind.resource.group, name) from None

    async def namespace(self, name: str) -> Object:
        """A namespace: from the cache, or if it is not there yet, from etcd."""
        kind = BY_PLURAL["namespaces"]
        entry = self.cache(kind).get(kind.key("", name))
        return entry.object if entry else await self.get(kind, "", name)
