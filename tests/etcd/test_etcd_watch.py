"""The watch across the death of its etcd: every event once, in order."""

from __future__ import annotations

import asyncio
import time

import pytest
from etcdserver import EtcdServer, etcd_server

from nodecore.errors import Expired, Unreachable
from nodecore.etcd.client import EtcdClient, EtcdConfig, Event, Put, unchanged

__all__ = ["etcd_server"]
pytestmark = pytest.mark.etcd


class Follower:
    """Collects a watch's events; `compacted` if it ended so."""

    def __init__(self, client: EtcdClient, prefix: str, revision: int) -> None:
        self.events: list[Event] = []
        self.watch = client.watch(prefix, revision)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for batch in self.watch:
            assert batch.events == sorted(batch.events, key=lambda event: event.kv.mod_revision)
            self.events += batch.events

    async def until(self, revision: int) -> list[int]:
        deadline = time.monotonic() + 60
        while not self.events or self.events[-1].kv.mod_revision < revision:
            assert time.monotonic() < deadline, f"at {self.watch.resume_at}, not at {revision}"
            assert not self.task.done(), self.task.exception()
            await asyncio.sleep(0.02)
        return [event.kv.mod_revision for event in self.events]

    def stop(self) -> None:
        self.task.cancel()


@pytest.mark.slow
async def test_every_event_once_across_kill_9(etcd_server: EtcdServer) -> None:
    config = EtcdConfig(etcd_server.endpoints)
    async with EtcdClient(config) as watching, EtcdClient(config) as writing:
        followers = [Follower(watching, "/w/", 1) for _ in range(3)]
        stop = asyncio.Event()

        async def write(number: int) -> None:
            count = 0
            while not stop.is_set():
                try:
                    await writing.put(f"/w/{number}", str(count).encode())
                    count += 1
                except Unreachable:
                    pass

        writers = [asyncio.create_task(write(number)) for number in range(8)]
        for _ in range(3):
            await asyncio.sleep(0.4)
            await asyncio.to_thread(etcd_server.kill9)
            await asyncio.to_thread(etcd_server.restart)
        before = await writing.revision()
        await asyncio.wait_for(_reached(writing, before + 100), 90)
        stop.set()
        await asyncio.gather(*writers)
        last = await writing.put("/w/end", b"")
        for follower in followers:
            # one put, one revision, nothing else writes: so no gap and no repetition means every event once
            assert await follower.until(last) == list(range(2, last + 1))
            follower.stop()


async def _reached(client: EtcdClient, revision: int) -> None:
    while await client.revision() < revision:
        await asyncio.sleep(0.02)


async def test_cancelled_waits_lose_nothing(etcd_server: EtcdServer) -> None:
    async with EtcdClient(EtcdConfig(etcd_server.endpoints)) as client:
        watch = client.watch("/c/", 1)
        seen: list[int] = []

        async def write() -> None:
            for _ in range(100):
                await client.put("/c/a", b"")
                await asyncio.sleep(0.002)

        task = asyncio.create_task(write())
        while len(seen) < 100:
            try:
                async with asyncio.timeout(0.01):
                    while True:
                        seen += [event.kv.mod_revision for event in (await anext(watch)).events]
            except TimeoutError:
                continue
        await task
        assert seen == list(range(2, 102))


async def test_previous_values_and_deletions(etcd_server: EtcdServer) -> None:
    async with EtcdClient(EtcdConfig(etcd_server.endpoints)) as client:
        await client.put("/p/a", b"1")
        made = await client.put("/p/a", b"2")
        await client.delete("/p/a")
        follower = Follower(client, "/p/", made)
        await follower.until(made + 1)
        change, gone = follower.events
        assert change.prev is not None
        assert (change.type, change.kv.value, change.prev.value) == ("PUT", b"2", b"1")
        assert gone.prev is not None
        assert (gone.type, gone.kv.value, gone.prev.value) == ("DELETE", b"", b"2")
        follower.stop()


async def test_compaction_while_away_raises_expired(etcd_server: EtcdServer) -> None:
    config = EtcdConfig(etcd_server.endpoints)
    async with EtcdClient(config) as client, EtcdClient(config) as other:
        revision = await client.put("/x/a", b"1")
        watch = client.watch("/x/", revision)
        await anext(watch)
        watch.close()
        for i in range(5):
            last = await other.put("/x/a", str(i).encode())
        await other.compact(last)
        with pytest.raises(Expired):
            await anext(watch)


async def test_confirmed_progress_survives_compaction(etcd_server: EtcdServer) -> None:
    async with EtcdClient(EtcdConfig(etcd_server.endpoints)) as client:
        await client.put("/quiet/a", b"1")
        follower = Follower(client, "/quiet/", 1)
        await follower.until(2)
        for _ in range(10):
            last = await client.put("/loud/a", b"")
        follower.watch.confirm(last)
        await client.compact(last)
        await asyncio.to_thread(etcd_server.kill9)
        await asyncio.to_thread(etcd_server.restart)
        new = await client.put("/quiet/a", b"2")
        assert await follower.until(new) == [2, new]
        follower.stop()


async def test_from_now_on_and_from_the_future(etcd_server: EtcdServer) -> None:
    async with EtcdClient(EtcdConfig(etcd_server.endpoints)) as client:
        await client.put("/n/a", b"1")
        now, future = client.watch("/n/", 0), client.watch("/n/", 5)
        waiting = [asyncio.create_task(anext(now)), asyncio.create_task(anext(future))]
        await _opened(now)
        for i in range(4):
            await client.put("/n/a", str(i).encode())
        batches = await asyncio.wait_for(asyncio.gather(*waiting), 60)
        assert [batch.events[0].kv.mod_revision for batch in batches] == [3, 5]


async def _opened(watch: object) -> None:
    while not watch.resume_at:  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)


async def test_a_transaction_arrives_whole(etcd_server: EtcdServer) -> None:
    async with EtcdClient(EtcdConfig(etcd_server.endpoints)) as client:
        made = await client.txn([], [Put(f"/t/{i}", b"") for i in range(100)])
        await client.txn([unchanged("/t/0", made.revision)], [Put("/t/0", b"1"), Put("/t/1", b"1")])
        watch = client.watch("/t/", 1)
        batch = await anext(watch)
        sizes = {revision: 0 for revision in (made.revision, made.revision + 1)}
        while True:
            for event in batch.events:
                sizes[event.kv.mod_revision] += 1
            assert sizes[made.revision] == 100
            if sizes[made.revision + 1] == 2:
                return
            batch = await anext(watch)
