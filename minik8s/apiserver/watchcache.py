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

Must not know: HTTP, kinds, selectors. Read next: `minik8s/apiserver/watchcache_window.py`.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from dataclasses import dataclass

import msgspec

from minik8s.apiserver.compaction import oldest_revision
from minik8s.apiserver.storage import Storage, decode, versioned
from minik8s.apiserver.watchcache_window import CacheEvent, Entry, EventType, Window, reversioned
from nodecore.errors import Expired, Fault, Invalid, Unreachable
from nodecore.etcd.client import Event, Get, KeyValue, Range, Watch
from nodecore.etcd.records import range_end
from nodecore.loop.backoff import Backoff

log = logging.getLogger(__name__)
PAGE = 500


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Entries in order of their keys, as they stand at `revision`."""

    entries: list[Entry]
    revision: int


class WatchCache:
    """One resource prefix (ending with `/`); `limit` events are kept, `history` revisions are replayed at start."""

    def __init__(self, storage: Storage, prefix: str, *, limit: int = 2000, history: int = 5000, confirm_every: float = 30.0,
                 timeout: float = 5.0) -> None:
        self.prefix = prefix
        self._etcd = storage.etcd
        self._history, self._confirm_every, self._timeout = history, confirm_every, timeout
        self._current: dict[str, Entry] = {}
        self._unreadable: set[str] = set()
        self._sorted: list[str] | None = None
        self.window = Window(limit)
        self._applied = 0
        self._revision = 0
        self._watch: Watch | None = None
        self._ready = asyncio.Event()
        self._waiters: set[asyncio.Future[None]] = set()
        self._checking: asyncio.Task[int] | None = None
        self._queued: asyncio.Task[int] | None = None

    @property
    def revision(self) -> int:
        """Everything up to this revision is in the cache."""
        return self._revision

    @property
    def synced(self) -> bool:
        """Whether it has caught up with etcd once."""
        return self._ready.is_set()

    async def ready(self) -> None:
        """Wait until it has caught up with etcd once."""
        await self._ready.wait()

    def snapshot(self, prefix: str = "") -> Snapshot:
        """The current entries, of all keys or those that begin with `prefix`."""
        if self._sorted is None:
            self._sorted = sorted(self._current)
        keys = self._sorted
        if prefix and prefix != self.prefix:
            keys = keys[bisect_left(keys, prefix):bisect_left(keys, range_end(prefix).decode())]
        return Snapshot([self._current[key] for key in keys], self._revision)

    def get(self, key: str) -> Entry | None:
        """One current entry."""
        return self._current.get(key)

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
        if self._revision >= revision:
            return
        await self._ready.wait()
        try:
            async with asyncio.timeout(self._timeout):
                while self._revision < revision and await self.fresh() < revision:
                    await self.changed()
        except TimeoutError:
            raise Unreachable(f"cache of {self.prefix} is at revision {self._revision}, not yet at {revision}") from None

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
        if self._applied:
            found = await self._range(0)
            self._replace(found)
            return
        now = await self._etcd.revision()
        past = max(1, now - self._history, await oldest_revision(self._etcd))
        try:
            found = await self._range(past)
        except Expired:
            found = await self._range(now)
        for kv in found.items:
            self._enter(kv)
        self.window.floor = self._applied = found.revision
        self._confirm(found.revision)

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
        self._watch = self._etcd.watch(self.prefix, self._revision + 1, previous=False)
        try:
            async for batch in self._watch:
                for event in batch.events:
                    self._apply(event)
                self._confirm(batch.revision)
        finally:
            self._watch.close()
            self._watch = None

    async def _confirm_now_and_then(self) -> None:
        """Catch up once, which is being ready; then move the revision on, for bookmarks and for a resume after compaction."""
        while True:
            try:
                await self.fresh()
                self._ready.set()
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
            raise Unreachable(f"cache of {self.prefix} is behind etcd, at revision {self._revision}") from None

    async def _check(self) -> int:
        state = await self._etcd.txn(
            [], [Get(self.prefix, prefix=True, count_only=True), Get(self.prefix, prefix=True, keys_only=True, newest=True)]
        )
        count, newest = state.responses[0].count, max((kv.mod_revision for kv in state.responses[1].items), default=0)
        while self._revision < state.revision:
            if self._applied and self._applied >= newest and len(self._current) + len(self._unreadable) == count:
                self._confirm(state.revision)
                break
            await self.changed()
        return self._revision

    def _confirm(self, revision: int) -> None:
        if revision > self._revision:
            self._revision = revision
        if self._watch:
            self._watch.confirm(self._revision)
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _apply(self, event: Event) -> None:
        """Take one event of etcd's in; one the cache is proven to be past already is none."""
        kv = event.kv
        if kv.mod_revision <= self._revision:
            return
        previous = self._current.get(kv.key)
        self._applied = kv.mod_revision
        if event.type == "PUT":
            self._put(kv)
            return
        self._unreadable.discard(kv.key)
        if previous:
            self._remove(previous, kv.mod_revision)

    def _put(self, kv: KeyValue) -> None:
        previous = self._current.get(kv.key)
        entry = self._enter(kv)
        if entry:
            entry.warm()
            self._append("MODIFIED" if previous else "ADDED", entry, previous, kv.mod_revision)
        elif previous:
            self._remove(previous, kv.mod_revision)

    def _enter(self, kv: KeyValue) -> Entry | None:
        """The entry of a key-value, now current; None (and no longer current) when it is not an object."""
        try:
            data = msgspec.json.encode(versioned(decode(kv.value, kv.key), kv.mod_revision))
        except Invalid as fault:
            log.error("%s; it is left out", fault)
            self._unreadable.add(kv.key)
            return None
        self._unreadable.discard(kv.key)
        if kv.key not in self._current:
            self._sorted = None
        entry = self._current[kv.key] = Entry(kv.key, data, kv.mod_revision, kv.create_revision)
        return entry

    def _remove(self, previous: Entry, revision: int) -> None:
        del self._current[previous.key]
        self._sorted = None
        self._append("DELETED", reversioned(previous, revision), previous, revision)

    def _append(self, type: EventType, entry: Entry, previous: Entry | None, revision: int) -> None:
        self.window.append(CacheEvent(type, entry, previous, revision))

    def _replace(self, found: Range) -> None:
        """Make the cache equal to a new list, told as events to those who watch.

        Nobody can resume from before the list: the events in between were not seen. Therefore deletions get the
        revision before the list's, and the window begins at the list's.
        """
        there = {kv.key: kv for kv in found.items}
        for key, entry in list(self._current.items()):
            if key not in there or there[key].create_revision != entry.created:
                self._remove(entry, found.revision - 1)
        self._unreadable &= there.keys()
        for kv in sorted(found.items, key=lambda kv: kv.mod_revision):
            previous = self._current.get(kv.key)
            if previous is None or previous.revision != kv.mod_revision:
                self._put(kv)
        self.window.floor = self._applied = found.revision
        self._confirm(found.revision)


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
