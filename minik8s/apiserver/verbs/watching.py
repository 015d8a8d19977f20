"""The watch verb: a stream of events from the watch cache, filtered and shaped for one client.

    resourceVersion missing or 0   first what there is, as ADDED; then what happens
    n                              what happened after n; 410 inside the stream when that is forgotten

Lines without a selector are made once and shared by every client. Bookmarks go out each minute and at the end.
Must not know: HTTP's machinery (lines are handed to `send`). Read next: `storage/watchcache.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.request.call import Call, number
from minik8s.apiserver.request.routes import truthy
from minik8s.apiserver.request.status import Cause, expired, invalid
from minik8s.apiserver.schema.protobuf_out import envelope, watch_frame
from minik8s.apiserver.storage.watchcache import CacheWatch
from minik8s.apiserver.storage.watchcache_window import CacheEvent, Entry, watch_line
from minik8s.apiserver.verbs.reading import freshen, matcher_of, partial, tabled, wanted
from nodecore.errors import Expired

Object = dict[str, Any]
Send = Callable[[bytes], Awaitable[None]]
BOOKMARK_PERIOD = 60.0
SHORTEST, LONGEST = 1800, 3600


class Watching:
    """One client's watch: `begin` may refuse it, `run` streams it."""

    def __init__(self, cluster: Cluster, call: Call) -> None:
        self._cluster, self._call = cluster, call
        self.form = wanted(call)
        self._folder = call.kind.folder(call.target.namespace)
        test = matcher_of(call)
        self._matches: Callable[[Entry], bool] | None = (lambda entry: test(entry.object)) if test else None
        self._headers = True
        self._bookmarks = truthy(call.query.get("allowWatchBookmarks", ""))
        self._seconds = number(call.query, "timeoutSeconds") or random.randint(SHORTEST, LONGEST)
        if call.query.get("sendInitialEvents"):
            why = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            raise invalid("ListOptions", "meta.k8s.io", "", [Cause("sendInitialEvents", why, "FieldValueForbidden")])

    async def begin(self) -> tuple[list[bytes], CacheWatch | None]:
        """The first lines, and the events to go on with (None: forgotten, the watch is over)."""
        cache = self._cluster.cache(self._call.kind)
        await freshen(self._cluster, self._call)
        version = number(self._call.query, "resourceVersion") or 0
        if version:
            try:
                return [], cache.watch(version)
            except Expired as error:
                return [self._gone(str(error))], None
        snapshot = cache.snapshot(self._folder)
        found = [entry for entry in snapshot.entries if self._matches is None or self._matches(entry)]
        return [self._line("ADDED", entry) for entry in found], cache.watch(snapshot.revision)

    async def run(self, first: list[bytes], events: CacheWatch | None, send: Send) -> None:
        """Send until the time is over, the client falls behind, or the caller cancels."""
        if first:
            await send(b"".join(first))
        if events is None:
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        try:
            while loop.time() < end:
                try:
                    async with asyncio.timeout_at(min(end, loop.time() + BOOKMARK_PERIOD)):
                        batch = await events.batch()
                except TimeoutError:
                    await self._bookmark(events, send)
                    continue
                lines = list(self._lines(batch))
                if lines:
                    await send(b"".join(lines))
        except Expired as error:
            await send(self._gone(str(error)))

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
            return frames.of(type, entry)
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

    async def _bookmark(self, events: CacheWatch, send: Send) -> None:
        if not self._bookmarks:
            return
        resource = self._call.kind.resource
        meta = {"resourceVersion": str(events.revision), "creationTimestamp": None}
        obj: Object = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
        if self.form.table:
            obj = {"kind": "Table", "apiVersion": f"meta.k8s.io/{self.form.version}", "columnDefinitions": [], "rows": [],
                   "metadata": {"resourceVersion": meta["resourceVersion"]}}
        await send(self._encoded("BOOKMARK", obj))

    def _gone(self, why: str) -> bytes:
        return self._encoded("ERROR", expired(why).body())


class Frames:
    """The last events in protobuf, each made once however many clients want it so."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: dict[tuple[str, str, int], bytes] = {}

    def of(self, type: str, entry: Entry) -> bytes:
        """An object of a cache as one event."""
        key = (type, entry.key, entry.revision)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = watch_frame(type, envelope(entry.object))
            if len(self._made) > self._most:
                del self._made[next(iter(self._made))]
        return found


frames = Frames(256)
