"""The watch cache: the same as etcd at every moment it claims, every event once, through every kind of trouble."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cuttable import forwarder
from etcdserver import EtcdServer, etcd_server, shared_etcd

from minik8s.apiserver.storage.compaction import KEY
from minik8s.apiserver.storage.feed import Feed
from minik8s.apiserver.storage.objects import Storage
from minik8s.apiserver.storage.watchcache import CacheWatch, WatchCache
from minik8s.apiserver.storage.watchcache_window import CacheEvent, Entry
from nodecore.errors import Expired, Fault, NotFound, Unreachable
from nodecore.etcd.client import EtcdClient, EtcdConfig

__all__ = ["etcd_server", "shared_etcd"]
pytestmark = pytest.mark.etcd
PREFIX = "/registry/things/"


@pytest.fixture
async def storage(shared_etcd: EtcdServer) -> AsyncIterator[Storage]:
    async with EtcdClient(EtcdConfig(shared_etcd.endpoints)) as client:
        yield Storage(client)
        await client.delete_prefix("")


@asynccontextmanager
async def running(storage: Storage, **options: Any) -> AsyncIterator[WatchCache]:
    feed = Feed(storage.etcd)
    cache = feed.cache(PREFIX, **options)
    task = asyncio.create_task(feed.run())
    try:
        await asyncio.wait_for(cache.ready(), 60)
        yield cache
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def thing(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **more}


def objects(cache: WatchCache) -> dict[str, Any]:
    return {entry.key: json.loads(entry.data) for entry in cache.snapshot().entries}


async def in_etcd(storage: Storage) -> dict[str, Any]:
    return {f"{PREFIX}{obj['metadata']['name']}": obj for obj in (await storage.list(PREFIX)).objects}


class Client:
    """What an informer does: starts from a snapshot, follows the events, and complains when they make no sense."""

    def __init__(self, cache: WatchCache) -> None:
        found = cache.snapshot()
        self.items = {entry.key: json.loads(entry.data) for entry in found.entries}
        self.revision = found.revision
        self.watch = cache.watch(found.revision)
        self.events: list[CacheEvent] = []
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for event in self.watch:
            self.take(event)

    def take(self, event: CacheEvent) -> None:
        line = json.loads(event.line)
        assert line["type"] == event.type
        obj = line["object"]
        if event.type != "DELETED":
            assert obj["metadata"]["resourceVersion"] == str(event.revision)
        key = event.entry.key
        assert (key in self.items) == (event.type != "ADDED"), f"{event.type} of {key}"
        if event.type == "DELETED":
            del self.items[key]
        else:
            self.items[key] = obj
        self.events.append(event)

    async def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not done():
            assert not self.task.done(), self.task.exception()
            assert time.monotonic() < deadline, f"{len(self.events)} events, watch at {self.watch.revision}"
            await asyncio.sleep(0.01)


async def test_follows_etcd(storage: Storage) -> None:
    await storage.create(PREFIX + "a", thing())
    async with running(storage) as cache:
        client = Client(cache)
        await storage.create(PREFIX + "b", thing("b"))
        await storage.update(PREFIX + "a", lambda obj: {**obj, "n": 1})
        gone = await storage.delete(PREFIX + "b")
        await storage.etcd.put("/registry/others/x", b"{}")
        await client.until(lambda: len(client.events) == 3)
        assert [event.type for event in client.events] == ["ADDED", "MODIFIED", "DELETED"]
        assert json.loads(client.events[2].line)["object"] == gone
        assert client.events[1].previous is not None
        assert "n" not in client.events[1].previous.object
        await cache.fresh()
        assert objects(cache) == client.items == await in_etcd(storage)
        assert cache.watch(client.revision).revision == client.revision
        assert client.watch.revision == cache.revision == await storage.etcd.revision()


async def test_own_writes_are_read_back(storage: Storage) -> None:
    async with running(storage) as cache:
        for i in range(50):
            made = await storage.create(f"{PREFIX}{i}", thing(str(i)))
            await cache.wait_for(int(made["metadata"]["resourceVersion"]))
            assert cache.get(f"{PREFIX}{i}") is not None
            if i % 3 == 0:
                await storage.delete(f"{PREFIX}{i}")
                await cache.fresh()
                assert cache.get(f"{PREFIX}{i}") is None
        with pytest.raises(Unreachable):
            await Feed(storage.etcd, timeout=0.1).fresh()


async def test_fresh_questions_are_shared(storage: Storage) -> None:
    asked = 0

    class Counting(EtcdClient):
        async def revision(self) -> int:
            nonlocal asked
            asked += 1
            return await super().revision()

    async with Counting(storage.etcd.config) as client, running(Storage(client)) as cache:
        asked = 0
        await asyncio.gather(*(cache.fresh() for _ in range(500)))
        assert asked <= 2


async def test_snapshots_of_a_namespace(storage: Storage) -> None:
    for key in ("ns/b", "ns/a", "ns-2/a", "n/z"):
        await storage.create(PREFIX + key, thing(key))
    async with running(storage) as cache:
        def names(prefix: str = "") -> list[str]:
            return [entry.key.removeprefix(PREFIX) for entry in cache.snapshot(prefix).entries]
        assert names(PREFIX + "ns/") == ["ns/a", "ns/b"]
        assert names() == ["n/z", "ns-2/a", "ns/a", "ns/b"]
        await storage.create(PREFIX + "ns/aa", thing())
        await cache.fresh()
        assert names(PREFIX + "ns/") == ["ns/a", "ns/aa", "ns/b"]


async def test_selectors_turn_changes_into_coming_and_going(storage: Storage) -> None:
    def red(entry: Entry) -> bool:
        return entry.object.get("color") == "red"

    async with running(storage) as cache:
        watch = cache.watch(cache.revision)
        key = PREFIX + "a"
        await storage.create(key, thing(color="blue"))
        for color in ("red", "red!", "red", "red"):
            await storage.update(key, lambda obj, color=color: {**obj, "color": color, "n": obj.get("n", 0) + 1})
        await storage.delete(key)
        await storage.create(key, thing(color="blue"))
        last = await storage.delete(key)
        seen = []
        while True:
            event = await anext(watch)
            said = event.as_seen_by(red)
            if said:
                seen.append((said[0], said[1].object["n"], said[1].object["metadata"]["resourceVersion"] == str(event.revision)))
            if str(event.revision) == last["metadata"]["resourceVersion"]:
                break
        assert seen == [("ADDED", 1, True), ("DELETED", 1, True), ("ADDED", 3, True), ("MODIFIED", 4, True), ("DELETED", 4, True)]


async def test_a_restarted_server_lets_clients_resume(storage: Storage) -> None:
    await storage.create(PREFIX + "a", thing())
    async with running(storage) as cache:
        client = Client(cache)
        await storage.update(PREFIX + "a", lambda obj: {**obj, "n": 1})
        await client.until(lambda: len(client.events) == 1)
        client.task.cancel()
        at = client.watch.revision
    await storage.create(PREFIX + "b", thing("b"))
    await storage.delete(PREFIX + "a")
    async with running(storage) as again:
        watch = again.watch(at)
        client.take(await anext(watch))
        client.take(await anext(watch))
        assert client.items == objects(again) == await in_etcd(storage)
        with pytest.raises(Expired):
            again.watch(0)


async def test_a_start_after_compaction_replays_what_is_left(storage: Storage) -> None:
    for i in range(10):
        last = await storage.create(f"{PREFIX}{i}", thing(str(i)))
        if i == 5:
            compacted = int(last["metadata"]["resourceVersion"])
    await storage.etcd.put(KEY, str(compacted).encode())
    await storage.etcd.compact(compacted)
    async with running(storage) as cache:
        watch = cache.watch(compacted)
        assert [(await anext(watch)).entry.key[-1] for _ in range(4)] == ["6", "7", "8", "9"]
        with pytest.raises(Expired):
            cache.watch(compacted - 1)
    await storage.etcd.compact(await storage.etcd.revision())  # somebody else did, and told nobody
    async with running(storage) as cache:
        assert len(objects(cache)) == 10


async def test_slow_watchers_are_dropped_and_quick_ones_are_not(storage: Storage) -> None:
    async with running(storage, limit=20) as cache:
        slow, quick = cache.watch(cache.revision), Client(cache)
        start = cache.revision
        await storage.create(PREFIX + "a", thing(n=0))
        for i in range(60):
            made = await storage.update(PREFIX + "a", lambda obj, i=i: {**obj, "n": i + 1})
            await cache.wait_for(int(made["metadata"]["resourceVersion"]))
        await quick.until(lambda: len(quick.events) == 61)
        with pytest.raises(Expired, match="slow"):
            await anext(slow)
        with pytest.raises(Expired):
            cache.watch(start)
        quick.task.cancel()


async def test_a_watch_from_a_revision_yet_to_come(storage: Storage) -> None:
    async with running(storage) as cache:
        watch = cache.watch(cache.revision + 2)
        for name in "abc":
            await storage.create(PREFIX + name, thing(name))
        assert (await anext(watch)).entry.key == PREFIX + "c"


async def test_foreign_bytes_are_left_out(storage: Storage) -> None:
    await storage.etcd.put(PREFIX + "bytes", b"k8s\0")
    await storage.create(PREFIX + "a", thing())
    async with running(storage) as cache:
        client = Client(cache)
        await storage.etcd.put(PREFIX + "more", b"\xff")
        await storage.etcd.put(PREFIX + "a", b"no longer JSON")
        await storage.etcd.put(PREFIX + "bytes", b'{"metadata":{"name":"bytes"}}')
        await cache.fresh()
        await client.until(lambda: len(client.events) == 2)
        assert [event.type for event in client.events] == ["DELETED", "ADDED"]
        await storage.etcd.delete(PREFIX + "more")
        await cache.fresh()
        assert list(objects(cache)) == [PREFIX + "bytes"]


async def _churn(storage: Storage, rng: random.Random, stop: asyncio.Event) -> None:
    while not stop.is_set():
        name = str(rng.randrange(20))
        try:
            match rng.randrange(3):
                case 0:
                    await storage.create(PREFIX + name, thing(name, n=0))
                case 1:
                    await storage.update(PREFIX + name, lambda obj: {**obj, "n": rng.random()})
                case _:
                    await storage.delete(PREFIX + name)
        except Fault:
            await asyncio.sleep(0.001)


@pytest.mark.slow
async def test_clients_follow_through_kill_9_of_etcd(etcd_server: EtcdServer) -> None:
    config = EtcdConfig(etcd_server.endpoints)
    async with EtcdClient(config) as one, EtcdClient(config) as other, running(Storage(one)) as cache:
        stop = asyncio.Event()
        clients = [Client(cache) for _ in range(5)]
        churn = [asyncio.create_task(_churn(Storage(other), random.Random(seed), stop)) for seed in range(4)]
        for _ in range(2):
            await asyncio.sleep(0.4)
            clients.append(Client(cache))
            await asyncio.to_thread(etcd_server.kill9)
            await asyncio.to_thread(etcd_server.restart)
        await clients[0].until(lambda: len(clients[0].events) > 200)
        stop.set()
        await asyncio.gather(*churn)
        await other.put(PREFIX + "end", b"{}")
        for client in clients:
            await client.until(lambda client=client: PREFIX + "end" in client.items)
            assert client.items == objects(cache)
            client.task.cancel()
        first = [event.revision for event in clients[0].events]
        assert first == sorted(set(first))


async def test_compaction_while_etcd_was_away_is_told_as_a_difference(etcd_server: EtcdServer) -> None:
    """The watch is cut off for so long that its events are compacted: watchers get what changed, late-comers list anew."""
    async with (
        forwarder(etcd_server.client_port) as way,
        EtcdClient(EtcdConfig((f"http://127.0.0.1:{way.port}",))) as one,
        EtcdClient(EtcdConfig(etcd_server.endpoints)) as other,
        running(Storage(one)) as cache,
    ):
        storage = Storage(other)
        for name in ("changed", "deleted", "recreated", "same"):
            await storage.create(PREFIX + name, thing(name))
        await cache.fresh()
        client, before = Client(cache), cache.revision
        way.cut()
        await storage.update(PREFIX + "changed", lambda obj: {**obj, "n": 1})
        await storage.delete(PREFIX + "deleted")
        await storage.delete(PREFIX + "recreated")
        await storage.create(PREFIX + "recreated", thing("recreated", again=True))
        await storage.create(PREFIX + "passing", thing("passing"))
        await storage.delete(PREFIX + "passing")
        await storage.create(PREFIX + "new", thing("new"))
        await other.compact(await other.revision())
        assert len(client.events) == 0
        way.mend()
        await client.until(lambda: len(client.events) == 5)
        kinds = sorted((event.entry.key.removeprefix(PREFIX), event.type) for event in client.events)
        assert kinds == [
            ("changed", "MODIFIED"), ("deleted", "DELETED"), ("new", "ADDED"), ("recreated", "ADDED"), ("recreated", "DELETED"),
        ]
        await cache.fresh()
        assert client.items == objects(cache) == await in_etcd(storage)
        with pytest.raises(Expired):
            cache.watch(before)
        await storage.delete(PREFIX + "same")
        await client.until(lambda: len(client.events) == 6)
        client.task.cancel()


async def test_idle_caches_move_on_with_etcd(storage: Storage) -> None:
    async with running(storage) as cache:
        watch: CacheWatch = cache.watch(cache.revision)
        for _ in range(5):
            last = await storage.etcd.put("/elsewhere", b"")
        deadline = time.monotonic() + 60
        while watch.revision < last:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def test_not_found_is_not_swallowed(storage: Storage) -> None:
    with pytest.raises(NotFound):
        await storage.get(PREFIX + "nothing")


async def test_a_cache_joins_while_everything_changes(storage: Storage) -> None:
    """It fills under fire, from before it was asked for, and every client of it sees a history that makes sense."""
    stop = asyncio.Event()
    feed = Feed(storage.etcd)
    running = asyncio.create_task(feed.run())
    churn = [asyncio.create_task(_churn(storage, random.Random(seed), stop)) for seed in range(3)]
    clients = []
    for _ in range(10):
        await asyncio.sleep(0.05)
        cache = feed.cache(PREFIX)
        await asyncio.wait_for(cache.ready(), 60)
        clients.append((cache, Client(cache)))
    stop.set()
    await asyncio.gather(*churn)
    await feed.fresh()
    there = await in_etcd(storage)
    for cache, client in clients:
        await client.until(lambda client=client, cache=cache: client.watch.revision == cache.revision)
        assert client.items == objects(cache) == there
        client.task.cancel()
    feed.drop(clients[0][0])
    assert len(feed.everyone()) == 9
    running.cancel()


async def test_two_versions_of_one_prefix(storage: Storage) -> None:
    feed = Feed(storage.etcd)
    caches = [feed.cache(PREFIX), feed.cache(PREFIX, show=lambda obj: {**obj, "version": 2}), feed.cache("/registry/th/ings/")]
    running = asyncio.create_task(feed.run())
    await storage.create(PREFIX + "a", thing())
    await storage.create("/registry/th/ings/a", thing())
    for cache in caches:
        await cache.ready()
    await feed.fresh()
    assert [[obj.get("version") for obj in objects(cache).values()] for cache in caches] == [[None], [2], [None]]
    running.cancel()
