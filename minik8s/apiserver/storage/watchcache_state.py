"""What the watch cache holds of one resource, and what each of etcd's events does to it.

Without I/O: events and lists in, entries and a window of events out. Two revisions are kept apart: `applied`, that of the
last event taken in, and `revision`, up to which nothing is missing; the second may be ahead, when it was proven
that nothing happened in between (`equals`) or etcd said so.

Must not know: asyncio, how events come. Read next: `minik8s/apiserver/storage/watchcache_window.py`.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from minik8s.apiserver.storage.objects import decode, versioned, with_version
from minik8s.apiserver.storage.watchcache_window import CacheEvent, Entry, EventType, Window, reversioned
from nodecore.errors import Invalid
from nodecore.etcd.records import Event, KeyValue, Range, range_end

log = logging.getLogger(__name__)
Show = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Entries in order of their keys, as they stand at `revision`."""

    entries: list[Entry]
    revision: int


class CacheState:
    """Current entries by key, and the window of the last `limit` events."""

    def __init__(self, limit: int, show: Show | None = None) -> None:
        self.window = Window(limit)
        self._show = show
        self.applied = 0
        self.revision = 0
        self._current: dict[str, Entry] = {}
        self._unreadable: set[str] = set()
        self._sorted: list[str] | None = None

    def __len__(self) -> int:
        return len(self._current)

    def get(self, key: str) -> Entry | None:
        """One current entry."""
        return self._current.get(key)

    def snapshot(self, prefix: str = "") -> Snapshot:
        """The current entries, of all keys or those that begin with `prefix`."""
        if self._sorted is None:
            self._sorted = sorted(self._current)
        keys = self._sorted
        if prefix:
            keys = keys[bisect_left(keys, prefix):bisect_left(keys, range_end(prefix).decode())]
        return Snapshot([self._current[key] for key in keys], self.revision)

    def equals(self, count: int, newest: int) -> bool:
        """Whether this is the state in which there are `count` keys, the newest of them written at `newest`.

        Every key there then is here, for it was not written since; and as many are here, so they are the same.
        """
        return bool(self.applied) and self.applied >= newest and len(self._current) + len(self._unreadable) == count

    def confirm(self, revision: int) -> None:
        """Nothing up to `revision` is missing."""
        self.revision = max(self.revision, revision)

    def fill(self, found: Range) -> None:
        """Take in the first list: no events, nobody watches yet."""
        for kv in found.items:
            self._enter(kv)
        self.window.floor = self.applied = found.revision
        self.confirm(found.revision)

    def apply(self, event: Event) -> None:
        """Take one event of etcd's in; one the cache is proven to be past already is none."""
        kv = event.kv
        if kv.mod_revision <= self.revision:
            return
        previous = self._current.get(kv.key)
        self.applied = kv.mod_revision
        if event.type == "PUT":
            self._put(kv)
            return
        self._unreadable.discard(kv.key)
        if previous:
            self._remove(previous, kv.mod_revision)

    def replace(self, found: Range) -> None:
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
        self.window.floor = self.applied = found.revision
        self.confirm(found.revision)

    def _put(self, kv: KeyValue) -> None:
        previous = self._current.get(kv.key)
        entry = self._enter(kv)
        if entry:
            self._append("MODIFIED" if previous else "ADDED", entry, previous, kv.mod_revision)
        elif previous:
            self._remove(previous, kv.mod_revision)

    def _enter(self, kv: KeyValue) -> Entry | None:
        """The entry of a key-value, now current; None (and no longer current) when it is not an object."""
        try:
            data = with_version(kv.value, kv.mod_revision) if self._show is None else None
            if data is None:
                obj = versioned(decode(kv.value, kv.key), kv.mod_revision)
                data = msgspec.json.encode(self._show(obj) if self._show else obj)
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
