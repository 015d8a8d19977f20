"""What the controllers know: a live copy of each collection, which already shows their own writes.

A watch lags behind a write. So that nothing is ever made twice, what the API answered to a write is put in the copy at
once, and older news from the watch do not undo it: an object stays until the watch has passed its resourceVersion (which
this relies on growing), a deleted one counts as terminating from the moment the API agreed. This is what client-go's
"expectations" are for, as one rule for all controllers.

Must not know: what anything is for. Read next: `minik8s/controllers/driver.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from nodecore.kube.client import KubeClient
from nodecore.kube.informer import Informer
from nodecore.kube.resource import Resource
from nodecore.kube.workload import Meta


class Item(Protocol):
    """Anything with metadata."""

    @property
    def metadata(self) -> Meta:
        """Its metadata."""
        ...


T = TypeVar("T", bound=Item)
Listener = Callable[[Any, Any], None]


def _version(meta: Meta) -> int:
    return int(meta.resource_version) if meta.resource_version.isdigit() else 0


class Collection(Generic[T]):
    """All objects of one resource by key and by namespace; tells listeners `(old, new)` of each change."""

    def __init__(self, resource: Resource, into: type[T]) -> None:
        self.resource, self.into = resource, into
        self.items: dict[str, T] = {}
        self.listeners: list[Listener] = []
        self._spaces: dict[str, dict[str, T]] = {}
        self._unseen: set[str] = set()
        self._doomed: set[str] = set()
        self._informer: Informer[T] | None = None
        self._stand = 0

    def follow(self, client: KubeClient, on_change: Callable[[], None]) -> Informer[T]:
        """The informer that keeps this copy; run it."""
        def changed() -> None:
            self.forget_passed(int(informer.version or 0))
            on_change()
        def item(key: str, value: T | None) -> None:
            self.saw(key, value, int(informer.version or 0) if informer.synced else 0)
        informer: Informer[T] = Informer(client, self.resource, into=self.into, on_change=changed, on_item=item)
        self._informer = informer
        return informer

    @property
    def synced(self) -> bool:
        """Whether the collection has been read once."""
        return self._informer is None or self._informer.synced

    def __iter__(self) -> Iterator[T]:
        return iter(list(self.items.values()))

    def get(self, key: str) -> T | None:
        """The object with this key."""
        return self.items.get(key)

    def within(self, namespace: str) -> Iterable[T]:
        """The objects of one namespace."""
        return list(self._spaces.get(namespace, {}).values())

    def saw(self, key: str, item: T | None, version: int) -> None:
        """The watch, standing at `version`, says the object is now this, or gone."""
        self._stand = max(self._stand, version)
        old = self.items.get(key)
        if old is not None and (_version(item.metadata) if item else version) < _version(old.metadata):
            return
        self._unseen.discard(key)
        self._put(key, item)

    def forget_passed(self, version: int) -> None:
        """Drop what was written but is gone by the time the watch passed it."""
        self._stand = max(self._stand, version)
        for key in list(self._unseen):
            item = self.items.get(key)
            if item is None or _version(item.metadata) <= version:
                self._unseen.discard(key)
                known = self._informer.items.get(key) if self._informer else None
                self._put(key, known)

    def wrote(self, raw: Any) -> None:
        """The API answered this to a write of ours; where the watch is already past it, the watch knows better."""
        item = msgspec.convert(raw, self.into)
        old = self.items.get(item.metadata.key)
        if _version(item.metadata) <= self._stand:
            return
        if old is None or _version(item.metadata) > _version(old.metadata):
            self._unseen.add(item.metadata.key)
            self._put(item.metadata.key, item)

    def doomed(self, meta: Meta) -> None:
        """The API agreed to delete this object."""
        self._doomed.add(meta.uid)
        item = self.items.get(meta.key)
        if item is not None and item.metadata.uid == meta.uid:
            self._put(meta.key, item)

    def _put(self, key: str, item: T | None) -> None:
        old = self.items.get(key)
        if old is not None and (item is None or item.metadata.uid != old.metadata.uid):
            self._doomed.discard(old.metadata.uid)
        if item is not None and item.metadata.uid in self._doomed:
            item = self._terminating(item)
        namespace, _, name = key.rpartition("/")
        if item is None:
            self.items.pop(key, None)
            self._spaces.get(namespace, {}).pop(name, None)
        else:
            self.items[key] = item
            self._spaces.setdefault(namespace, {})[name] = item
        for listener in self.listeners:
            listener(old, item)

    def _terminating(self, item: T) -> T:
        if item.metadata.deletion_timestamp:
            self._doomed.discard(item.metadata.uid)
            return item
        whole: Any = item
        meta = msgspec.structs.replace(item.metadata, deletion_timestamp="1970-01-01T00:00:00Z")
        marked: T = msgspec.structs.replace(whole, metadata=meta)
        return marked
