"""The events `kubectl describe` shows: core/v1 Event objects, aggregated and rate limited.

    recorder = Recorder(client, component="kubelet", host=node)
    tasks["events"] = recorder.run()
    recorder.emit(pod, "Normal", "Started", "Started container web")

`emit` only puts a line in a bounded queue; `run` writes. The same event again raises the first one's `count`. Each
involved object has a token bucket (a burst, then one in five minutes, as client-go's spam filter has), so that a
crash loop cannot fill the store. What cannot be written is dropped: events are news, not state.

Must not know: what the events mean. Read next: `nodecore/kube/client.py`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nodecore.errors import Fault, NotFound
from nodecore.kube.client import KubeClient
from nodecore.kube.resource import EVENTS

log = logging.getLogger(__name__)
BURST, REFILL_SECONDS = 25.0, 300.0
REMEMBERED = 512
QUEUED = 1000
MESSAGE_LIMIT = 1024

Involved = Mapping[str, Any]


def reference(api_version: str, kind: str, namespace: str, name: str, uid: str = "", *, field_path: str = "") -> dict[str, str]:
    """An ObjectReference, the `involved` of an event."""
    ref = {"apiVersion": api_version, "kind": kind, "namespace": namespace, "name": name, "uid": uid, "fieldPath": field_path}
    return {key: value for key, value in ref.items() if value}


def reference_of(obj: Involved) -> dict[str, str]:
    """The ObjectReference of a whole object; a reference is returned as it is."""
    if "metadata" not in obj:
        return dict(obj)
    meta = obj["metadata"]
    return reference(obj.get("apiVersion", ""), obj.get("kind", ""), meta.get("namespace", ""), meta["name"], meta.get("uid", ""))


@dataclass(frozen=True, slots=True)
class News:
    """One event to be told: what makes two of them the same."""

    involved: tuple[tuple[str, str], ...]
    type: str
    reason: str
    message: str
    component: str


@dataclass(slots=True)
class _Told:
    """An event as it stands in the API."""

    name: str
    namespace: str
    count: int


@dataclass(slots=True)
class _Bucket:
    tokens: float = BURST
    at: float = 0.0

    def take(self, now: float) -> bool:
        """Use one token if there is one."""
        self.tokens = min(BURST, self.tokens + max(0.0, now - self.at) / REFILL_SECONDS)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass
class Recorder:
    """Tells the events of one component; `host` is the node it runs on, if that matters."""

    client: KubeClient
    component: str
    host: str = ""
    dropped: int = 0
    _queue: asyncio.Queue[News] = field(default_factory=lambda: asyncio.Queue(QUEUED), repr=False)
    _told: OrderedDict[News, _Told] = field(default_factory=OrderedDict, repr=False)
    _buckets: OrderedDict[tuple[str, ...], _Bucket] = field(default_factory=OrderedDict, repr=False)

    def emit(self, involved: Involved, type: str, reason: str, message: str) -> None:
        """Queue an event about an object (or a reference to it); returns at once and never fails."""
        ref = reference_of(involved)
        bucket_key = (ref.get("uid", ""), ref.get("namespace", ""), ref.get("name", ""))
        bucket = self._buckets.pop(bucket_key, None) or _Bucket(at=time.monotonic())
        self._buckets[bucket_key] = bucket
        _trim(self._buckets)
        news = News(tuple(sorted(ref.items())), type, reason, message[:MESSAGE_LIMIT], self.component)
        if not bucket.take(time.monotonic()) or self._queue.full():
            self.dropped += 1
            return
        self._queue.put_nowait(news)

    async def run(self) -> None:
        """Write what is queued, for ever."""
        while True:
            news = await self._queue.get()
            try:
                await self._write(news)
            except Fault as error:
                self.dropped += 1
                log.debug("event %s not written: %s", news.reason, error)

    async def _write(self, news: News) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told = self._told.pop(news, None)
        if told:
            try:
                change = {"count": told.count + 1, "lastTimestamp": now}
                await self.client.patch(EVENTS, told.name, change, told.namespace)
            except NotFound:
                told = None
        if told:
            told.count += 1
        else:
            told = await self._create(news, now)
        self._told[news] = told
        _trim(self._told)

    async def _create(self, news: News, now: str) -> _Told:
        involved = dict(news.involved)
        namespace = involved.get("namespace") or "default"
        name = f"{involved.get('name', 'unknown')}.{secrets.token_hex(8)}"
        source = {"component": self.component, **({"host": self.host} if self.host else {})}
        await self.client.create(EVENTS, {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved, "type": news.type, "reason": news.reason, "message": news.message,
            "source": source, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
            "reportingComponent": self.component, "reportingInstance": self.host,
        }, namespace)
        return _Told(name, namespace, 1)


def _trim(memory: OrderedDict[Any, Any]) -> None:
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
