"""The watch verb: a stream of events from the watch cache, filtered and shaped for one client.

    resourceVersion missing or 0   first what there is, as ADDED; then what happens
    n                              what happened after n; 410 inside the stream when that is forgotten
    sendInitialEvents=true         first what there is, not older than n; then a bookmark that says so; then what happens
    sendInitialEvents=false        what happens after n, or from now on

Lines without a selector are made once and shared by every client. Bookmarks go out each minute and at the end. A client that
takes nothing for a while is dropped.
Must not know: HTTP's machinery (lines are handed to `send`). Read next: `storage/watchcache.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import msgspec

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.metrics import Metrics
from minik8s.apiserver.request.call import Call
from minik8s.apiserver.request.listoptions import list_options
from minik8s.apiserver.request.status import expired
from minik8s.apiserver.schema.protobuf_out import envelope, watch_frame
from minik8s.apiserver.storage.watchcache import CacheWatch
from minik8s.apiserver.storage.watchcache_state import Snapshot
from minik8s.apiserver.storage.watchcache_window import CacheEvent, Entry, watch_line
from minik8s.apiserver.verbs.paging import freshen, matcher_of
from minik8s.apiserver.verbs.reading import partial, tabled, wanted
from nodecore.errors import Expired

Object = dict[str, Any]
Send = Callable[[bytes], Awaitable[None]]
BOOKMARK_PERIOD = 60.0
STUCK_SECONDS = 30.0
PIECE = 200
LARGEST_KEPT = 64 * 1024
SHORTEST, LONGEST = 1800, 3600


class Watching:
    """One client's watch: `begin` may refuse it, `run` streams it."""

    __slots__ = ("_bookmarks", "_call", "_cluster", "_folder", "_headers", "_matches", "_metrics", "_options",
                 "_seconds", "_sending", "_stopped", "_waiting", "form")

    def __init__(self, cluster: Cluster, call: Call, metrics: Metrics) -> None:
        self._cluster, self._call, self._metrics = cluster, call, metrics
        self._stopped = False
        self._sending = 0.0  # since when
        self._waiting: asyncio.Timeout | None = None
        self.form = wanted(call)
        self._folder = call.kind.folder(call.target.namespace)
        test = matcher_of(call)
        self._matches: Callable[[Entry], bool] | None = (lambda entry: test(entry.object)) if test else None
        self._headers = True
        self._options = list_options(call.query, watch=True)
        self._bookmarks = self._options.bookmarks
        self._seconds = self._options.seconds or random.randint(SHORTEST, LONGEST)

    async def begin(self) -> tuple[Iterator[bytes], CacheWatch | None]:
        """The first pieces, and the events to go on with (None: forgotten, the watch is over)."""
        cache, options = self._cluster.cache(self._call.kind), self._options
        if options.version and not options.initial:
            await cache.ready()
            try:
                return iter(()), cache.watch(options.version)
            except Expired as error:
                return iter((self._gone(str(error)),)), None
        await freshen(self._cluster, self._call, options.version)
        snapshot = cache.snapshot(self._folder)
        events = cache.watch(snapshot.revision)
        if options.initial is False:
            return iter(()), events
        return self._initial(snapshot), events

    def _initial(self, snapshot: Snapshot) -> Iterator[bytes]:
        entries = snapshot.entries
        for at in range(0, len(entries), PIECE):
            yield b"".join([self._line("ADDED", entry) for entry in entries[at:at + PIECE]
                            if self._matches is None or self._matches(entry)])
        if self._options.initial and self._bookmarks:
            yield self._bookmark(snapshot.revision, {"k8s.io/initial-events-end": "true"})

    async def run(self, first: Iterable[bytes], events: CacheWatch | None, send: Send) -> None:
        """Send until the time is over, the client falls behind, or the caller cancels.

        The timer loses nothing: what was taken is with the transport before anything is waited for.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        try:
            for piece in first:
                if piece:
                    await _in_time(send, piece)
                await self._cluster.breathe()
            while events is not None and loop.time() < end and not self._stopped:
                try:
                    async with asyncio.timeout_at(min(end, loop.time() + BOOKMARK_PERIOD)) as self._waiting:
                        while True:
                            while not (batch := events.pending()):
                                waiter = events.begin()
                                try:
                                    await waiter
                                finally:
                                    events.end(waiter)
                            if lines := list(self._lines(batch)):
                                self._metrics.watch_events[self._call.kind.place] += len(lines)
                                await self._send(send, b"".join(lines))
                except TimeoutError:
                    self._waiting = None
                    if self._sending and loop.time() - self._sending > STUCK_SECONDS:
                        raise _stuck() from None
                    self._sending = 0.0
                if self._bookmarks:
                    await _in_time(send, self._bookmark(events.revision))
        except Expired as error:
            await _in_time(send, self._gone(str(error)))

    async def _send(self, send: Send, data: bytes) -> None:
        self._sending = asyncio.get_running_loop().time()
        await send(data)
        self._sending = 0.0

    def stop(self) -> None:
        """End soon, with a last bookmark: the client goes on at another server."""
        self._stopped = True
        if self._waiting and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())

    def _lines(self, batch: Iterable[CacheEvent]) -> Iterable[bytes]:
        for event in batch:
            if not event.entry.key.startswith(self._folder):
                continue
            if self._matches is None:
                yield event.line if self.form.plain else self._line(event.type, event.entry)
            elif seen := event.as_seen_by(self._matches):
                yield self._line(*seen)

    def _line(self, type: str, entry: Entry) -> bytes:
        if self.form.plain:
            return watch_line(type, entry.data)
        if self.form.binary and not self.form.as_:
            return frames.of(type, self._call.kind.resource.api_version, entry)
        return self._encoded(type, self._shaped(entry.object))

    def _encoded(self, type: str, obj: Object) -> bytes:
        if self.form.binary:
            return watch_frame(type, envelope(obj))
        return watch_line(type, msgspec.json.encode(obj))

    def _shaped(self, obj: Object) -> Object:
        if not self.form.table:
            return partial(obj, self.form)
        headers, self._headers = self._headers, False
        version = obj["metadata"].get("resourceVersion", "")
        return tabled(self._call, self.form, [obj], {"resourceVersion": version}, headers=headers)

    def _bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> bytes:
        resource = self._call.kind.resource
        meta: Object = {"resourceVersion": str(revision), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        obj: Object = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
        if self.form.table:
            rows = [{"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{self.form.version}",
                                             "metadata": meta}}] if annotations else []
            obj = {"kind": "Table", "apiVersion": f"meta.k8s.io/{self.form.version}", "columnDefinitions": [], "rows": rows,
                   "metadata": {"resourceVersion": str(revision)}}
        elif self.form.partial:
            obj = partial(obj, self.form)
        return self._encoded("BOOKMARK", obj)

    def _gone(self, why: str) -> bytes:
        return self._encoded("ERROR", expired(why).body())


async def _in_time(send: Send, data: bytes) -> None:
    try:
        async with asyncio.timeout(STUCK_SECONDS):
            await send(data)
    except TimeoutError:
        raise _stuck() from None


def _stuck() -> ConnectionAbortedError:
    return ConnectionAbortedError(f"the client took nothing for {STUCK_SECONDS:g} s")


class Frames:
    """The last events in protobuf, each made once however many clients want it so."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: dict[tuple[str, str, str, int], bytes] = {}

    def of(self, type: str, version: str, entry: Entry) -> bytes:
        """An object of a cache of one API version as one event."""
        key = (type, version, entry.key, entry.revision)
        found = self._made.get(key)
        if found is None:
            found = watch_frame(type, envelope(entry.object))
            if len(found) <= LARGEST_KEPT:
                self._made[key] = found
            if len(self._made) > self._most:
                del self._made[next(iter(self._made))]
        return found


frames = Frames(256)
