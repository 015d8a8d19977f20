"""What the watch cache remembers: entries, events, and a window of the last events with cursors into it.

An object is encoded once, when it enters; every list, event and watcher shares those bytes. Decoded forms are kept
only while an event is hot (the last few, for a short while), because a decoded object takes about five times the memory.
Watchers have no queues: each is a position in the shared window, and one that falls out of it is `Expired`.

Pure. Must not know: etcd, asyncio, HTTP. Read next: `minik8s/apiserver/storage/watchcache.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from nodecore.errors import Expired

EventType = Literal["ADDED", "MODIFIED", "DELETED"]
HOT = 64
AGES, KEPT = 10, 100


class Entry:
    """One object at one revision, as clients see it: `data` is its JSON, resourceVersion included."""

    __slots__ = ("_hot", "_object", "created", "data", "key", "revision")

    def __init__(self, key: str, data: bytes, revision: int, created: int) -> None:
        self.key, self.data, self.revision, self.created = key, data, revision, created
        self._object: dict[str, Any] | None = None
        self._hot = False

    @property
    def object(self) -> dict[str, Any]:
        """The decoded object, shared: do not change it."""
        if self._object is not None:
            return self._object
        obj: dict[str, Any] = msgspec.json.decode(self.data)
        if self._hot:
            self._object = obj
        return obj

    def warm(self) -> None:
        """Keep the decoded object, once it is asked for, until `cool`."""
        self._hot = True

    def cool(self) -> None:
        """Drop the decoded object."""
        self._hot, self._object = False, None


class CacheEvent:
    """A change: `entry` after it (for DELETED the last state, at the deletion's revision), `previous` before it."""

    __slots__ = ("_line", "entry", "previous", "revision", "type")

    def __init__(self, type: EventType, entry: Entry, previous: Entry | None, revision: int) -> None:
        self.type, self.entry, self.previous, self.revision = type, entry, previous, revision
        self._line: bytes | None = None
        entry.warm()
        if previous:
            previous.warm()

    @property
    def line(self) -> bytes:
        """The event as a line of a watch response, made once and shared."""
        if self._line is None:
            self._line = watch_line(self.type, self.entry.data)
        return self._line

    def as_seen_by(self, matches: Callable[[Entry], bool]) -> tuple[EventType, Entry] | None:
        """What this change means to a watcher of only the objects that match; None if nothing.

        An object that starts to match is ADDED, one that stops is DELETED: in its last matching state, as the
        original sends it, but at this event's revision.
        """
        before = self.previous is not None and matches(self.previous)
        after = self.type != "DELETED" and matches(self.entry)
        if after:
            return ("MODIFIED" if before else "ADDED"), self.entry
        if not before:
            return None
        assert self.previous is not None
        return "DELETED", self.entry if self.type == "DELETED" else reversioned(self.previous, self.revision)

    def cool(self) -> None:
        """Drop what can be made again."""
        self._line = None
        self.entry.cool()
        if self.previous:
            self.previous.cool()


def watch_line(type: str, data: bytes) -> bytes:
    """One line of a watch response."""
    return b'{"type":"%b","object":%b}\n' % (type.encode(), data)


def reversioned(entry: Entry, revision: int) -> Entry:
    """The same object with another resourceVersion."""
    obj = msgspec.json.decode(entry.data)
    obj["metadata"]["resourceVersion"] = str(revision)
    return Entry(entry.key, msgspec.json.encode(obj), revision, entry.created)


class Window:
    """The last `limit` events or a few more; `floor` is the revision after which none is missing."""

    def __init__(self, limit: int, floor: int = 0) -> None:
        self.limit, self.floor = limit, floor
        self._events: list[CacheEvent] = []
        self._dropped = 0
        self._hot: deque[CacheEvent] = deque()
        self._ticks: deque[int] = deque([0], AGES)

    @property
    def end(self) -> int:
        """The position after the last event."""
        return self._dropped + len(self._events)

    def append(self, event: CacheEvent) -> None:
        """Add the newest event, forgetting the oldest ones now and then."""
        self._events.append(event)
        self._hot.append(event)
        if len(self._hot) > HOT:
            self._hot.popleft().cool()
        surplus = len(self._events) - self.limit
        if surplus > self.limit // 4:
            self._forget(surplus)

    def _forget(self, count: int) -> None:
        self.floor = max(self.floor, self._events[count - 1].revision)
        del self._events[:count]
        self._dropped += count

    def tick(self) -> None:
        """A while has passed: cool what was there at the last tick, forget what is AGES ticks old, but for the last KEPT."""
        new = self.end - self._ticks[-1]
        while len(self._hot) > new:
            self._hot.popleft().cool()
        old = self._ticks[0] if len(self._ticks) == AGES else 0
        self._ticks.append(self.end)
        count = min(old, self.end - KEPT) - self._dropped
        if count > 0:
            self._forget(count)

    def position(self, since: int) -> int:
        """Where the events after revision `since` begin; Expired when some of them are gone."""
        if since < self.floor:
            raise Expired(f"too old resource version: {since} ({self.floor})")
        return self._dropped + bisect_right(self._events, since, key=lambda event: event.revision)

    def at(self, position: int) -> CacheEvent | None:
        """The event at a position, None at the end; Expired when it has been forgotten."""
        index = position - self._dropped
        if index < 0:
            raise Expired("too old resource version: the watcher was too slow")
        return self._events[index] if index < len(self._events) else None
