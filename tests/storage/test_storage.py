"""Objects in etcd: versions, races, pages, and compaction in turns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from etcdserver import EtcdServer, shared_etcd

from minik8s.apiserver.storage.compaction import KEY, compact_once, oldest_revision
from minik8s.apiserver.storage.objects import Storage
from nodecore.errors import AlreadyExists, Conflict, Expired, Invalid, NotFound
from nodecore.etcd.client import EtcdClient, EtcdConfig

__all__ = ["shared_etcd"]
pytestmark = pytest.mark.etcd
PREFIX = "/registry/things/default/"


@pytest.fixture
async def storage(shared_etcd: EtcdServer) -> AsyncIterator[Storage]:
    async with EtcdClient(EtcdConfig(shared_etcd.endpoints)) as client:
        yield Storage(client)
        await client.delete_prefix("")


def thing(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"kind": "Thing", "metadata": {"name": name}, **more}


async def test_versions_are_revisions_and_never_stored(storage: Storage) -> None:
    key = PREFIX + "a"
    made = await storage.create(key, {"metadata": {"name": "a", "resourceVersion": "999"}})
    stored = await storage.etcd.get(key)
    assert stored is not None
    assert json.loads(stored.value) == {"metadata": {"name": "a"}}
    assert made["metadata"]["resourceVersion"] == str(stored.mod_revision)
    assert await storage.get(key) == made
    changed = await storage.update(key, lambda obj: {**obj, "n": 1})
    assert int(changed["metadata"]["resourceVersion"]) > stored.mod_revision
    assert await storage.get(key, revision=stored.mod_revision) == made
    gone = await storage.delete(key)
    assert gone["n"] == 1
    assert int(gone["metadata"]["resourceVersion"]) == await storage.etcd.revision()


async def test_what_is_missing_and_what_is_there(storage: Storage) -> None:
    key = PREFIX + "a"
    for attempt in (storage.get(key), storage.update(key, lambda obj: obj), storage.delete(key)):
        with pytest.raises(NotFound):
            await attempt
    await storage.create(key, thing())
    with pytest.raises(AlreadyExists):
        await storage.create(key, thing())


async def test_concurrent_updates_all_count(storage: Storage) -> None:
    key = PREFIX + "counter"
    await storage.create(key, thing(n=0))

    def increment(obj: dict[str, Any]) -> dict[str, Any]:
        obj["n"] += 1
        return obj

    await asyncio.gather(*(storage.update(key, increment) for _ in range(50)))
    assert (await storage.get(key))["n"] == 50


async def test_one_of_many_wins_with_an_expected_version(storage: Storage) -> None:
    key = PREFIX + "raced"
    version = (await storage.create(key, thing()))["metadata"]["resourceVersion"]
    results = await asyncio.gather(
        *(storage.update(key, lambda obj, i=i: {**obj, "winner": i}, expect=version) for i in range(20)), return_exceptions=True
    )
    winners = [result for result in results if isinstance(result, dict)]
    assert len(winners) == 1
    assert all(isinstance(result, Conflict) for result in results if result is not winners[0])
    assert await storage.get(key) == winners[0]


async def test_an_update_without_change_writes_nothing(storage: Storage) -> None:
    key = PREFIX + "same"
    made = await storage.create(key, thing(a=1, b={"c": [1, 2]}))
    assert await storage.update(key, lambda obj: dict(reversed(obj.items()))) == made
    assert (await storage.get(key))["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_a_change_that_refuses_leaves_all_as_it_was(storage: Storage) -> None:
    key = PREFIX + "guarded"
    made = await storage.create(key, thing())

    def refuse(obj: dict[str, Any]) -> Any:
        obj["spoiled"] = True
        raise Invalid("no")

    with pytest.raises(Invalid):
        await storage.update(key, refuse)
    with pytest.raises(Invalid):
        await storage.delete(key, check=refuse)
    assert await storage.get(key) == made


async def test_update_to_nothing_deletes(storage: Storage) -> None:
    key = PREFIX + "finalized"
    await storage.create(key, thing())
    gone = await storage.update(key, lambda obj: None)
    assert int(gone["metadata"]["resourceVersion"]) == await storage.etcd.revision()
    with pytest.raises(NotFound):
        await storage.get(key)


async def test_delete_sees_what_was_written_in_between(storage: Storage) -> None:
    """The check runs again on the newer state, which the returned object shows."""
    key = PREFIX + "busy"
    await storage.create(key, thing(n=0))
    seen: list[int] = []
    loop = asyncio.get_running_loop()
    written = asyncio.Event()

    class Interrupting(EtcdClient):
        async def txn(self, *args: Any, **kw: Any) -> Any:
            if not written.is_set():
                written.set()
                await loop.create_task(storage.update(key, lambda obj: {**obj, "n": 1}))
            return await super().txn(*args, **kw)

    async with Interrupting(storage.etcd.config) as client:
        gone = await Storage(client).delete(key, check=lambda obj: seen.append(obj["n"]))
    assert seen == [0, 1]
    assert gone["n"] == 1


async def test_pages_stand_at_one_revision(storage: Storage) -> None:
    names = [f"{i:04}" for i in range(25)]
    for name in names:
        await storage.create(PREFIX + name, thing(name))
    page = await storage.list(PREFIX, limit=10)
    revision, got = page.revision, [obj["metadata"]["name"] for obj in page.objects]
    assert page.more
    assert page.remaining == 15
    await storage.delete(PREFIX + names[15])
    await storage.create(PREFIX + "0010x", thing("0010x"))
    while page.more:
        page = await storage.list(PREFIX, revision=revision, limit=10, start=page.next)
        assert page.revision == revision
        got += [obj["metadata"]["name"] for obj in page.objects]
    assert got == names
    assert (page.next, page.remaining) == ("", 0)
    now = await storage.list(PREFIX)
    assert len(now.objects) == 25
    assert now.revision > revision
    await storage.etcd.compact(now.revision)
    with pytest.raises(Expired):
        await storage.list(PREFIX, revision=revision, limit=10, start=page.next)


async def test_lists_longer_than_an_internal_page(storage: Storage) -> None:
    await asyncio.gather(*(storage.create(f"{PREFIX}{i:05}", thing(str(i))) for i in range(1200)))
    assert [obj["metadata"]["name"] for obj in (await storage.list(PREFIX)).objects] == [str(i) for i in range(1200)]
    limited = await storage.list(PREFIX, limit=1100)
    assert (len(limited.objects), limited.remaining) == (1100, 100)


async def test_foreign_bytes_are_invalid(storage: Storage) -> None:
    await storage.etcd.put(PREFIX + "bytes", b"k8s\0\xff")
    await storage.etcd.put(PREFIX + "list", b"[]")
    for name in ("bytes", "list"):
        with pytest.raises(Invalid, match=name):
            await storage.get(PREFIX + name)


async def test_compaction_in_turns(storage: Storage) -> None:
    """Two servers compact: in every period one of them does it, to where etcd stood a period before."""
    etcd = storage.etcd
    assert await oldest_revision(etcd) == 0
    first = second = (0, 0)
    for period in range(3):
        old = await etcd.put("/old", str(period).encode())
        await etcd.put("/old", b"newer")
        first = await compact_once(etcd, *first)
        second = await compact_once(etcd, *second)
        assert first[0] == second[0] == period + 1
        assert await etcd.get("/old", revision=old) is not None
    marker = await etcd.get(KEY)
    assert marker is not None
    assert marker.version == 3
    compacted = await oldest_revision(etcd)
    assert int(marker.value) == compacted > 0
    with pytest.raises(Expired):
        await etcd.get("/old", revision=compacted - 1)
    assert await etcd.get("/old", revision=compacted) is not None
    late = await compact_once(etcd, 0, 0)
    assert late[0] == 3
