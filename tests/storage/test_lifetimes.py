"""Objects that pass: a shared etcd lease takes them away, whoever wrote them last started their time anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from etcdserver import EtcdServer, shared_etcd

from minik8s.apiserver.storage.lifetimes import LARGEST, Lifetime
from minik8s.apiserver.storage.objects import Storage
from nodecore.errors import NotFound
from nodecore.etcd.client import EtcdClient, EtcdConfig

__all__ = ["shared_etcd"]
pytestmark = pytest.mark.etcd
PREFIX = "/registry/events/lives/"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def etcd(shared_etcd: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(EtcdConfig(shared_etcd.endpoints)) as client:
        yield client


async def test_one_lease_serves_a_while_and_outlives_the_last_who_took_it(etcd: EtcdClient) -> None:
    clock = Clock()
    lifetime = Lifetime(etcd, 3600, clock=clock)
    first = await lifetime.lease()
    clock.now += 59
    assert await lifetime.lease() == first
    assert (await etcd.time_to_live(first)).granted == 3660
    clock.now += 2
    second = await lifetime.lease()
    assert second != first


async def test_a_short_life_has_a_short_bucket(etcd: EtcdClient) -> None:
    assert (await etcd.time_to_live(await Lifetime(etcd, 100).lease())).granted == 105


async def test_a_full_lease_is_followed_by_another(etcd: EtcdClient) -> None:
    lifetime = Lifetime(etcd, 3600, clock=Clock())
    taken = await asyncio.gather(*(lifetime.lease() for _ in range(LARGEST + 1)))
    assert [len([lease for lease in taken if lease == each]) for each in dict.fromkeys(taken)] == [LARGEST, 1]


async def test_objects_go_with_their_lease_and_a_write_starts_it_anew(etcd: EtcdClient) -> None:
    storage = Storage(etcd)
    first, second = await etcd.grant(60), await etcd.grant(60)
    await storage.create(f"{PREFIX}a", {"metadata": {"name": "a"}}, lease=first)
    await storage.create(f"{PREFIX}b", {"metadata": {"name": "b"}}, lease=first)
    await storage.update(f"{PREFIX}b", lambda obj: {**obj, "count": 2}, lease=second)
    assert (await etcd.time_to_live(first)).keys == (f"{PREFIX}a",)
    assert (await etcd.time_to_live(second)).keys == (f"{PREFIX}b",)
    await etcd.revoke(first)
    with pytest.raises(NotFound):
        await storage.get(f"{PREFIX}a")
    assert (await storage.get(f"{PREFIX}b"))["count"] == 2
