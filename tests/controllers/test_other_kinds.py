"""Kinds come and go with discovery; what the API serves is read from any API server's oldest documents."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minik8s.controllers.garbage import Garbage
from minik8s.controllers.kinds import OtherKinds
from minik8s.controllers.scales import Scales
from minik8s.controllers.world import Collection
from nodecore.errors import Unreachable
from nodecore.kube.client import KubeClient
from nodecore.kube.config import KubeConfig
from nodecore.kube.discovery import Served, served
from nodecore.kube.resource import CONFIG_MAPS, EVENTS, NODES, PODS, SECRETS, Resource
from nodecore.kube.workload import Anything
from tests.plane import TOKEN, Plane

pytestmark = pytest.mark.etcd


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane.start(tmp_path_factory.mktemp("kinds")) as started:
        yield started


def client_of(plane: Plane) -> KubeClient:
    return KubeClient(KubeConfig(f"https://127.0.0.1:{plane.port}", Path(plane.pki.ca).read_bytes(), token=TOKEN))


async def test_what_is_served(plane: Plane) -> None:
    async with client_of(plane) as client:
        found = {each.resource: each.verbs for each in await served(client)}
    assert {PODS, NODES, SECRETS, EVENTS} <= found.keys()
    assert {"list", "watch", "delete", "create"} <= found[PODS]
    assert found[Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview",
                          namespaced=False)] == {"create"}
    assert not [each for each in found if "/" in each.plural]


async def test_kinds_are_followed_as_they_come_and_forgotten_as_they_go(plane: Plane) -> None:
    collections: dict[Resource, Collection[Any]] = {PODS: Collection(PODS, Anything)}
    garbage = Garbage(collections)
    marked: set[str] = set()
    garbage.listen(marked.add)
    wanted, whole = [PODS, CONFIG_MAPS, EVENTS], frozenset({"list", "watch", "delete"})
    troubled = False

    async def discover(_: KubeClient) -> list[Served]:
        if troubled:
            raise Unreachable("no")
        return [Served(each, whole) for each in wanted]

    async def awaited(check: Any) -> None:
        async with asyncio.timeout(60):
            while not check():
                await asyncio.sleep(0.02)

    async with client_of(plane) as client:
        refs = [{"apiVersion": "v1", "kind": "Secret", "name": "gone", "uid": "uid-gone"}]
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": refs}}
        await client.create(CONFIG_MAPS, body, "default")
        kinds = OtherKinds(client, collections, garbage, lambda: None, Scales(client), discover=discover)
        following = asyncio.create_task(kinds.run(0.05))
        await awaited(lambda: CONFIG_MAPS in collections and collections[CONFIG_MAPS].synced)
        assert EVENTS not in collections
        assert "configmaps.|default/owned" in marked
        assert garbage.plan("configmaps.|default/owned", 0.0).ops == ()  # Secrets are not ours to judge yet
        marked.clear()
        wanted.append(SECRETS)
        await awaited(lambda: SECRETS in collections and collections[SECRETS].synced)
        assert "configmaps.|default/owned" in marked, "judged anew, now that its owner's kind is known"
        assert len(garbage.plan("configmaps.|default/owned", 0.0).ops) == 1
        troubled = True
        await asyncio.sleep(0.2)
        assert CONFIG_MAPS in collections
        troubled = False
        wanted.remove(CONFIG_MAPS)
        await awaited(lambda: CONFIG_MAPS not in collections)
        assert garbage.plan("configmaps.|default/owned", 0.0).ops == ()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
