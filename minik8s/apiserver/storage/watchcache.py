"""A live copy of one resource: current objects and recent events, fed by one etcd watch, read by every client.

    cache = WatchCache(storage, "/registry/pods/")
    tasks["cache pods"] = cache.run()
    await cache.fresh()                                 # as new as etcd at this moment
    found = cache.snapshot("/registry/pods/default/")   # entries (encoded objects) and the revision they stand at
    async for event in cache.watch(found.revision): ...

Start: the list is read as it was some revisions ago (as far as etcd's last compaction allows) and the events since
are replayed into the window, so that after a restart of this process clients resume instead of listing anew.
etcd gone: the watch resumes, watchers notice nothing. Compacted meanwhile: list anew and tell watchers the difference.

Freshness: one transaction reads the number of keys and the newest mod_revision. If the cache has both (as many keys,
and applied up to that revision) it equals etcd at the transaction's revision; if not, the missing events are on
their way. etcd 3.4's progress requests cannot be used for that: they may overtake events. An object made and deleted
between the cache's position and such a proof leaves no events: nothing that anybody could hold on to.

Must not know: HTTP, kinds, selectors. Read next: `minik8s/apiserver/storage/watchcache_state.py`.
"""

from __future__ import annotations

import asyncio
import logging

from minik8s.apiserver.storage.compaction import oldest_revision
from minik8s.apiserver.storage.objects import Storage
from minik8s.apiserver.storage.watchcache_state import CacheState, Show, Snapshot
from minik8s.apiserver.storage.watchcache_window import CacheEvent, Entry, Window
from nodecore.errors import Expired, Fault, Unreachable
from nodecore.etcd.client import Get, KeyValue, Range, Watch
from nodecore.loop.backoff import Backoff

log = logging.getLogger(__name__)
PAGE = 500


class WatchCache:
    """One resource prefix (ending with `/`); `limit` events are kept, `history` revisions are replayed at start.

    `show` turns what is stored into the version that this cache's clients are to see.
    """

    def __init__(self, storage: Storage, prefix: str, *, limit: int = 2000, history: int = 5000, confirm_every: float = 30.0,
                 timeout: float = 5.0, show: Show | None = None) -> None:
        self.prefix = prefix
        self._etcd = storage.etcd
        self._history, self._confirm_every, self._timeout = history, confirm_every, timeout
        self._state = CacheState(limit, show)
        self._watch: Watch | None = None
        self._ready = asyncio.Event()
        self._waiters: set[asyncio.Future[None]] = set()
        self._checking: asyncio.Task[int] | None = None
        self._queued: asyncio.Task[int] | None = None

    @property
    def revision(self) -> int:
        """Everything up to this revision is in the cache."""
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

    def snapshot(self, prefix: str = "") -> Snapshot:
        """The current entries, of all keys or those that begin with `prefix`."""
        return self._state.snapshot(prefix)

    def get(self, key: str) -> Entry | None:
        """One current entry."""
        return self._state.get(key)

    def watch(self, since: int) -> CacheWatch:
        """The events after revision `since` and from now on; Expired when some of them are forgotten already."""
        if not self.synced:
            raise Unreachable(f"cache of {self.prefix} is not filled yet")
        return CacheWatch(self, self.window.position(since), since)

    async def fresh(self) -> int:
        """Wait until the cache is as new as etcd was when this was called; returns the revision it then has.

        Any number of callers share one question to etcd: the one asked next.
        """
        if self._queued is None:
            self._queued = asyncio.create_task(self._check_after(self._checking), name=f"fresh {self.prefix}")
            self._queued.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._queued)

    async def wait_for(self, revision: int) -> None:
        """Wait until everything up to `revision` is in the cache; Unreachable when that takes too long."""
        if self.revision >= revision:
            return
        await self._ready.wait()
        try:
            async with asyncio.timeout(self._timeout):
                while self.revision < revision and await self.fresh() < revision:
                    await self.changed()
        except TimeoutError:
            raise Unreachable(f"cache of {self.prefix} is at revision {self.revision}, not yet at {revision}") from None

    async def changed(self) -> None:
        """Wait until the next events are in, or the revision is confirmed to be a newer one."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def run(self) -> None:
        """Fill the cache and keep it so, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._confirm_now_and_then(), name=f"confirm {self.prefix}")
            backoff = Backoff(first=0.05, cap=2.0)
            while True:
                try:
                    await self._list()
                    backoff.reset()
                    await self._follow()
                except Expired:
                    log.info("%s: events compacted, listing anew", self.prefix)
                except Fault as fault:
                    log.log(logging.WARNING if backoff.failures in (3, 20) else logging.DEBUG, "%s: %s; trying again",
                            self.prefix, fault)
                    await asyncio.sleep(backoff.next())

    async def _list(self) -> None:
        """Read the whole: at first as it was a while ago, later as it is now, told as a difference."""
        if self._state.applied:
            self._state.replace(await self._range(0))
            self._wake()
            return
        now = await self._etcd.revision()
        past = max(1, now - self._history, await oldest_revision(self._etcd))
        try:
            found = await self._range(past)
        except Expired:
            found = await self._range(now)
        self._state.fill(found)
        self._wake()

    async def _range(self, revision: int) -> Range:
        items: list[KeyValue] = []
        start = ""
        while True:
            page = await self._etcd.range(self.prefix, revision=revision, limit=PAGE, start=start)
            revision = revision or page.revision
            items += page.items
            if not page.more:
                return Range(items, revision)
            start = page.items[-1].key + "\0"

    async def _follow(self) -> None:
        self._watch = self._etcd.watch(self.prefix, self.revision + 1, previous=False)
        try:
            async for batch in self._watch:
                for event in batch.events:
                    self._state.apply(event)
                self._confirm(batch.revision)
        finally:
            self._watch.close()
            self._watch = None

    async def _confirm_now_and_then(self) -> None:
        """Catch up once, which is being ready; then move the revision on, for bookmarks and for a resume after compaction.

        Each time the window is told that a while has passed.
        """
        while True:
            try:
                await self.fresh()
                self._ready.set()
                self.window.tick()
            except Fault as fault:
                log.debug("%s: %s", self.prefix, fault)
            await asyncio.sleep(self._confirm_every if self.synced else 0.05)

    async def _check_after(self, previous: asyncio.Task[int] | None) -> int:
        if previous:
            await asyncio.wait([previous])
        self._checking, self._queued = self._queued, None
        try:
            async with asyncio.timeout(self._timeout):
                return await self._check()
        except TimeoutError:
            raise Unreachable(f"cache of {self.prefix} is behind etcd, at revision {self.revision}") from None

    async def _check(self) -> int:
        state = await self._etcd.txn(
            [], [Get(self.prefix, prefix=True, count_only=True), Get(self.prefix, prefix=True, keys_only=True, newest=True)]
        )
        count, newest = state.responses[0].count, max((kv.mod_revision for kv in state.responses[1].items), default=0)
        while self.revision < state.revision:
            if self._state.equals(count, newest):
                self._confirm(state.revision)
                break
            await self.changed()
        return self.revision

    def _confirm(self, revision: int) -> None:
        self._state.confirm(revision)
        if self._watch:
            self._watch.confirm(self.revision)
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class CacheWatch:
    """An asynchronous iterator of `CacheEvent`; Expired for a watcher that lets more than the window pass."""

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
            await self._cache.changed()

    async def batch(self) -> list[CacheEvent]:
        """All events that are there, at least one: for a server that writes them in one go."""
        events = [await self.__anext__()]
        while event := self._take():
            events.append(event)
        return events

    def _take(self) -> CacheEvent | None:
        while event := self._cache.window.at(self._position):
            self._position += 1
            if event.revision > self._skip:
                self._given = max(self._given, event.revision)
                return event
        return None
