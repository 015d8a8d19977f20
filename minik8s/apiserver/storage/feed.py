"""One etcd watch of every key, from which all watch caches live; and how one knows that they are as new as etcd.

    feed = Feed(etcd)
    tasks["feed"] = feed.run()
    pods = feed.cache("/registry/pods/")
    await feed.fresh()                                  # all caches as new as etcd at this moment

Freshness: every revision of etcd is a change of at least one key, and all keys are watched. So who has taken in the event of
revision n misses nothing up to n; to be fresh is to ask etcd for its revision, a question any number of callers share, and to
wait for that event. etcd's progress requests cannot be used for that: in etcd 3.4 they may overtake events.

etcd gone: the watch resumes, watchers notice nothing. Compacted meanwhile: all is listed anew, watchers are told the difference.
Must not know: HTTP, kinds, selectors. Read next: `minik8s/apiserver/storage/watchcache.py`.
"""

from __future__ import annotations

import asyncio
import logging

from minik8s.apiserver.storage.compaction import oldest_revision
from minik8s.apiserver.storage.watchcache import WatchCache
from minik8s.apiserver.storage.watchcache_state import Show
from nodecore.errors import Expired, Fault, Unreachable
from nodecore.etcd.client import EtcdClient, Event, Get, KeyValue, Range, TxnResult
from nodecore.loop.backoff import Backoff
from nodecore.loop.wakeup import Wakeup

log = logging.getLogger(__name__)
PAGE = 500
TICK = 30.0
JOINING = 4


class Feed:
    """The changes of one etcd; `history` revisions are replayed into a cache that joins."""

    def __init__(self, etcd: EtcdClient, *, history: int = 5000, timeout: float = 5.0) -> None:
        self._etcd, self._history, self._timeout = etcd, history, timeout
        self.revision = 0
        self.events = 0
        self._caches: dict[str, list[WatchCache]] = {}
        self._joining: asyncio.Queue[WatchCache] = asyncio.Queue()
        self._lists = 0  # how often all was listed anew
        self._moved = Wakeup()
        self._checking: asyncio.Task[int] | None = None
        self._queued: asyncio.Task[int] | None = None

    def cache(self, prefix: str, *, limit: int = 2000, show: Show | None = None) -> WatchCache:
        """A new cache of the keys below `prefix` (ending with `/`), which fills as soon as this runs."""
        made = WatchCache(self, prefix, limit=limit, show=show)
        self._caches.setdefault(prefix, []).append(made)
        self._joining.put_nowait(made)
        return made

    def drop(self, cache: WatchCache) -> None:
        """Feed that cache no more."""
        left = [each for each in self._caches.pop(cache.prefix, []) if each is not cache]
        if left:
            self._caches[cache.prefix] = left
        cache.end()

    async def fresh(self) -> int:
        """Wait until everything up to etcd's revision of now is in; returns the revision reached.

        Any number of callers share one question to etcd: the one asked next.
        """
        if self._queued is None:
            self._queued = asyncio.create_task(self._check_after(self._checking), name="fresh")
            self._queued.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._queued)

    async def wait_for(self, revision: int) -> None:
        """Wait until everything up to `revision` is in; Unreachable when that takes too long."""
        try:
            async with asyncio.timeout(self._timeout):
                while self.revision < revision:
                    await self._moved.wait()
        except TimeoutError:
            raise Unreachable(f"the caches are at revision {self.revision}, not yet at {revision}") from None

    async def run(self) -> None:
        """Follow etcd, and let caches join, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick(), name="feed tick")
            for number in range(JOINING):
                group.create_task(self._join_for_ever(), name=f"feed join {number}")
            backoff = Backoff(first=0.05, cap=2.0)
            while True:
                try:
                    await self._begin()
                    backoff.reset()
                    await self._follow()
                except Expired:
                    log.info("events were compacted before they were seen: listing anew")
                except Fault as fault:
                    log.log(logging.WARNING if backoff.failures in (3, 20) else logging.DEBUG, "%s; trying again", fault)
                    await asyncio.sleep(backoff.next())

    def everyone(self) -> list[WatchCache]:
        """All caches."""
        return [cache for caches in self._caches.values() for cache in caches]

    async def _begin(self) -> None:
        """Start at etcd's revision of now; who has joined already is told what he missed as a difference."""
        revision, joined = await self._etcd.revision(), [cache for cache in self.everyone() if cache.synced]
        lists = [(cache, await self._range(cache.prefix, revision)) for cache in joined]
        for cache, found in lists:
            cache.replace(found)
        self._lists += 1
        self._reach(revision)

    async def _follow(self) -> None:
        watch = self._etcd.watch("", self.revision + 1, previous=False)
        try:
            async for batch in watch:
                self._take(batch.events)
                self._reach(batch.revision)
        finally:
            watch.close()

    def _take(self, events: list[Event]) -> None:
        touched = set()
        for event in events:
            for cache in self._caches_of(event.kv.key):
                cache.take(event)
                touched.add(cache)
        self.events += len(events)
        for cache in touched:
            cache.wake()

    def _caches_of(self, key: str) -> list[WatchCache]:
        at = 0
        while (at := key.find("/", at) + 1) > 0:
            found = self._caches.get(key[:at])
            if found:
                return found
        return []

    def _reach(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        self._moved.wake()

    async def _check_after(self, previous: asyncio.Task[int] | None) -> int:
        if previous:
            await asyncio.wait([previous])
        self._checking, self._queued = self._queued, None
        await self.wait_for(await self._etcd.revision())
        return self.revision

    async def _join_for_ever(self) -> None:
        while True:
            cache = await self._joining.get()
            backoff = Backoff(first=0.05, cap=2.0)
            while not cache.synced and not cache.ended:
                try:
                    await self._join(cache)
                except Fault as fault:
                    log.debug("cache of %s: %s; trying again", cache.prefix, fault)
                    await asyncio.sleep(backoff.next())

    async def _join(self, cache: WatchCache) -> None:
        """Fill a cache with the list of some revisions ago, as far as etcd's last compaction allows, and what happened since.

        So clients resume after a restart of this process instead of listing anew. What the feed brings meanwhile is kept back.
        """
        while not self.revision:
            await self._moved.wait()
        lists = self._lists
        cache.begin()
        asked = [Get(cache.prefix, prefix=True, count_only=True), Get(cache.prefix, prefix=True, keys_only=True, newest=True)]
        there = await self._etcd.txn([], asked)
        past = max(1, there.revision - self._history, await oldest_revision(self._etcd))
        try:
            cache.fill(await self._range(cache.prefix, past))
        except Expired:
            cache.fill(await self._range(cache.prefix, there.revision))
        await self._catch_up(cache, there)
        reached = max(there.revision, cache.applied)
        await self.wait_for(reached)
        if lists == self._lists:  # else what was kept back is torn
            cache.joined(reached)

    async def _catch_up(self, cache: WatchCache, there: TxnResult) -> None:
        """Take in what happened since the list; done when as many keys are here as there are, and the newest one of them."""
        count, newest = there.responses[0].count, max((kv.mod_revision for kv in there.responses[1].items), default=0)
        if cache.equals(count, newest):
            return
        watch = self._etcd.watch(cache.prefix, cache.applied + 1, previous=False)
        try:
            while cache.applied < there.revision and not cache.equals(count, newest):
                async with asyncio.timeout(self._timeout):
                    cache.replay((await anext(watch)).events)
        except TimeoutError:
            raise Unreachable("no events came") from None
        finally:
            watch.close()

    async def _range(self, prefix: str, revision: int) -> Range:
        items: list[KeyValue] = []
        start = ""
        while True:
            page = await self._etcd.range(prefix, revision=revision, limit=PAGE, start=start)
            items += page.items
            if not page.more:
                return Range(items, revision)
            start = page.items[-1].key + "\0"

    async def _tick(self) -> None:
        """Tell the caches' windows now and then that a while has passed."""
        while True:
            await asyncio.sleep(TICK)
            for cache in self.everyone():
                cache.window.tick()
