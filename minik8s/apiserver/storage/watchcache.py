"""A live copy of one resource: current objects and recent events, fed by the feed, read by every client.

    cache = feed.cache("/registry/pods/")
    await cache.ready()
    await feed.fresh()                                  # as new as etcd at this moment
    found = cache.snapshot("/registry/pods/default/")   # entries (encoded objects) and the revision they stand at
    async for event in cache.watch(found.revision): ...

An object made and deleted between two lists of the feed's leaves no events: nothing that anybody could hold on to.
Must not know: HTTP, kinds, selectors, etcd's verbs. Read next: `minik8s/apiserver/storage/watchcache_state.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from minik8s.apiserver.storage.watchcache_state import CacheState, Show, Snapshot
from minik8s.apiserver.storage.watchcache_window import CacheEvent, Entry, Window
from nodecore.errors import Expired, Unreachable
from nodecore.etcd.records import Event, Range
from nodecore.loop.wakeup import Wakeup


class Source(Protocol):
    """What a cache must know of the feed."""

    @property
    def revision(self) -> int:
        """Everything up to this revision has been brought."""

    async def fresh(self) -> int:
        """Wait until that is as new as etcd."""

    async def wait_for(self, revision: int) -> None:
        """Wait until that is at least `revision`."""


class WatchCache:
    """One resource prefix (ending with `/`); `limit` events are kept.

    `show` turns what is stored into the version that this cache's clients are to see.
    """

    def __init__(self, feed: Source, prefix: str, *, limit: int = 2000, show: Show | None = None) -> None:
        self.prefix = prefix
        self._feed, self._limit, self._show = feed, limit, show
        self._state = CacheState(limit, show)
        self.ended = False
        self._ready = asyncio.Event()
        self.changes = Wakeup()
        self._early: list[Event] = []

    @property
    def revision(self) -> int:
        """Everything up to this revision is in the cache."""
        if self.synced:
            self._state.confirm(self._feed.revision)
        return self._state.revision

    @property
    def window(self) -> Window:
        """The last events."""
        return self._state.window

    @property
    def synced(self) -> bool:
        """Whether it has caught up with etcd once."""
        return self._ready.is_set()

    async def ready(self) -> None:
        """Wait until it has caught up with etcd once."""
        await self._ready.wait()

    def end(self) -> None:
        """It will hear no more: those who watch are to list anew."""
        self.ended = True
        self.wake()

    def snapshot(self, prefix: str = "") -> Snapshot:
        """The current entries, of all keys or those that begin with `prefix`."""
        self._state.confirm(self.revision)
        return self._state.snapshot(prefix)

    def get(self, key: str) -> Entry | None:
        """One current entry."""
        return self._state.get(key)

    def __len__(self) -> int:
        return len(self._state)

    def watch(self, since: int) -> CacheWatch:
        """The events after revision `since` and from now on; Expired when some of them are forgotten already."""
        if not self.synced:
            raise Unreachable(f"cache of {self.prefix} is not filled yet")
        return CacheWatch(self, self.window.position(since), since)

    async def fresh(self) -> int:
        """Wait until the cache is as new as etcd was when this was called; returns the revision it then has."""
        await self._ready.wait()
        return await self._feed.fresh()

    async def wait_for(self, revision: int) -> None:
        """Wait until everything up to `revision` is in the cache; Unreachable when that takes too long."""
        await self._ready.wait()
        if self.revision < revision:
            await self._feed.wait_for(revision)

    async def changed(self) -> None:
        """Wait until the next events are in."""
        await self.changes.wait()

    def wake(self) -> None:
        """Tell who waits that events are in."""
        self.changes.wake()

    def take(self, event: Event) -> None:
        """One event from the feed; kept back until the list that precedes it is there."""
        if self.synced:
            self._state.apply(event)
        else:
            self._early.append(event)

    def begin(self) -> None:
        """Forget all: a list is to come."""
        self._state, self._early = CacheState(self._limit, self._show), []

    def fill(self, found: Range) -> None:
        """The first list."""
        self._state.fill(found)

    @property
    def applied(self) -> int:
        """The revision of the newest event or list taken in."""
        return self._state.applied

    def equals(self, count: int, newest: int) -> bool:
        """Whether this is the state of `count` keys of which the newest was written at `newest`."""
        return self._state.equals(count, newest)

    def replay(self, events: Iterable[Event]) -> None:
        """Events between the first list and what the feed brings."""
        for event in events:
            self._state.apply(event)

    def joined(self, revision: int) -> None:
        """All up to `revision` is in; go on with what the feed brings."""
        self._state.confirm(revision)
        early, self._early = self._early, []
        self.replay(early)
        self._ready.set()

    def replace(self, found: Range) -> None:
        """A list in the place of events that were missed."""
        self._state.replace(found)
        self.wake()


class CacheWatch:
    """An asynchronous iterator of `CacheEvent`; Expired for a watcher that lets more than the window pass."""

    __slots__ = ("_cache", "_given", "_position", "_skip")

    def __init__(self, cache: WatchCache, position: int, since: int) -> None:
        self._cache, self._position, self._given = cache, position, since
        self._skip = since if since > cache.revision else 0  # a revision this cache has yet to reach

    @property
    def revision(self) -> int:
        """The watcher has been given everything up to this revision: what a bookmark may say."""
        behind = self._position < self._cache.window.end
        return self._given if behind else max(self._given, self._cache.revision)

    def __aiter__(self) -> CacheWatch:
        return self

    async def __anext__(self) -> CacheEvent:
        while True:
            event = self._take()
            if event:
                return event
            if self._cache.ended:
                raise Expired("the resource is served no more")
            await self._cache.changed()

    async def batch(self) -> list[CacheEvent]:
        """All events that are there, at least one: for a server that writes them in one go."""
        while not (events := self.pending()):
            waiter = self.begin()
            try:
                await waiter
            finally:
                self.end(waiter)
        return events

    def begin(self) -> asyncio.Future[None]:
        """What `batch` awaits, for ten thousand who cannot afford a coroutine more; each must `end` it."""
        if self._cache.ended:
            raise Expired("the resource is served no more")
        return self._cache.changes.begin()

    def end(self, waiter: asyncio.Future[None]) -> None:
        """It is awaited no longer."""
        self._cache.changes.end(waiter)

    def pending(self) -> list[CacheEvent]:
        """All events that are there, perhaps none, without waiting."""
        return list(iter(self._take, None))

    def _take(self) -> CacheEvent | None:
        while event := self._cache.window.at(self._position):
            self._position += 1
            if event.revision > self._skip:
                self._given = max(self._given, event.revision)
                return event
        return None
