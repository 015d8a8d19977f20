"""A live copy of a collection: list, then watch from there, for ever.

    informer = Informer(client, SERVICES, into=Service, on_change=reconciler.mark)
    tasks["services"] = informer.run()
    ... informer.synced, informer.items["default/web"]

A watch that ends is resumed at the last version seen (bookmarks move it on); one that is `Expired` is listed
anew, and what vanished meanwhile vanishes here. `on_change` gets no argument: it only says "look again".
An object that is not of the type asked for is skipped, told once and kept in `unreadable`; of one that could be read
before, that stays: one wrong object is no reason to be blind to the others, or to forget what this one was.
The pattern is client-go's Reflector (k8s.io/client-go/tools/cache). Read next: `nodecore/loop/reconcile.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from nodecore.errors import Expired, Fault
from nodecore.kube.client import KubeClient, Unreadable, WatchEvent
from nodecore.kube.resource import Resource
from nodecore.loop.backoff import Backoff

log = logging.getLogger(__name__)
T = TypeVar("T")
MIN_WATCH = 1.0  # seconds; a watch that ends sooner is a server in trouble, not the end of its time


def key_of(item: Any) -> str:
    """`namespace/name`, or `name` for what has no namespace; of a dict or a typed view."""
    meta = item["metadata"] if isinstance(item, dict) else item.metadata
    namespace = meta.get("namespace", "") if isinstance(meta, dict) else meta.namespace
    name = meta["name"] if isinstance(meta, dict) else meta.name
    return f"{namespace}/{name}" if namespace else str(name)


class Informer(Generic[T]):
    """Keeps `items` (by `key_of`) equal to the collection; `synced` once it has been listed."""

    def __init__(self, client: KubeClient, resource: Resource, *, into: Any = dict, namespace: str | None = None,
                 labels: str = "", fields: str = "", on_change: Callable[[], None] = lambda: None,
                 on_item: Callable[[str, T | None], None] | None = None) -> None:
        self.client, self.resource, self.into, self.namespace = client, resource, into, namespace
        self.labels, self.fields = labels, fields
        self.items: dict[str, T] = {}
        self.unreadable: dict[str, str] = {}  # what is wrong with it, by key
        self.synced = False
        self.version = ""
        self._on_change, self._on_item = on_change, on_item

    async def run(self) -> None:
        """List and watch until cancelled."""
        backoff = Backoff(first=0.05, cap=5.0)
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                if not self.version:
                    await self._list()
                await self._watch()
            except Expired:
                self.version = ""
            except Fault as error:
                log.log(logging.WARNING if backoff.failures in (3, 10) else logging.DEBUG,
                        "%s: %s; trying again", self.resource.plural, error)
            if loop.time() - started > MIN_WATCH:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _list(self) -> None:
        found = await self.client.list(self.resource, self.namespace, labels=self.labels, fields=self.fields, into=self.into,
                                       strict=False)
        fresh = {key_of(item): item for item in found.items}
        fresh |= {bad.key: self.items[bad.key] for bad in found.unreadable if bad.key in self.items}
        self._complain(found.unreadable)
        self.unreadable = {bad.key: bad.reason for bad in found.unreadable}
        gone = self.items.keys() - fresh.keys()
        self.items = fresh
        self.version, self.synced = found.version, True
        if self._on_item:
            for key in gone:
                self._on_item(key, None)
            for key, item in fresh.items():
                self._on_item(key, item)
        self._on_change()

    async def _watch(self) -> None:
        events = self.client.watch(self.resource, self.version, self.namespace, labels=self.labels, fields=self.fields,
                                   into=self.into)
        async for event in events:
            self._take(event)

    def _take(self, event: WatchEvent[T]) -> None:
        self.version = event.version or self.version
        bad = event.unreadable
        if bad and event.type != "DELETED":
            self._complain([bad])
            self.unreadable[bad.key] = bad.reason
        elif bad:
            self._put(bad.key, None)
        elif event.object is not None:
            self._put(key_of(event.object), None if event.type == "DELETED" else event.object)

    def _put(self, key: str, item: T | None) -> None:
        self.unreadable.pop(key, None)
        if item is None:
            self.items.pop(key, None)
        else:
            self.items[key] = item
        if self._on_item:
            self._on_item(key, item)
        self._on_change()

    def _complain(self, found: list[Unreadable]) -> None:
        """One line for those whose trouble is news."""
        news = [bad for bad in found if self.unreadable.get(bad.key) != bad.reason]
        if news:
            more = f" (and {len(news) - 1} more)" if len(news) > 1 else ""
            log.warning("%s %s cannot be read and is skipped: %s%s", self.resource.plural, news[0].key, news[0].reason, more)
