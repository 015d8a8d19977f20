"""A budget over pods of a custom resource: the number it expects is that of the resource's `scale`, and follows it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from minik8s.controllers.disruption import Budget, Disruptions
from minik8s.controllers.garbage import Garbage
from minik8s.controllers.kinds import OtherKinds
from minik8s.controllers.ops import Patch
from minik8s.controllers.scales import Scales
from minik8s.controllers.world import Collection
from nodecore.kube.client import MERGE, KubeClient
from nodecore.kube.config import KubeConfig
from nodecore.kube.resource import DISRUPTION_BUDGETS, PODS, Resource
from nodecore.kube.workload import Pod
from tests.plane import TOKEN, Plane

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
HERDS = Resource("example.com", "v1", "herds", "Herd")
SCALE = {"specReplicasPath": ".spec.heads", "statusReplicasPath": ".status.heads"}
DEFINITION = {"metadata": {"name": "herds.example.com"}, "spec": {
    "group": "example.com", "scope": "Namespaced", "names": {"plural": "herds", "kind": "Herd"}, "versions": [{
        "name": "v1", "served": True, "storage": True, "subresources": {"scale": SCALE, "status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]}}


def pod(name: str, owner: dict[str, Any]) -> Pod:
    reference = {"apiVersion": "example.com/v1", "kind": "Herd", "name": "h", "uid": owner["metadata"]["uid"], "controller": True}
    meta = {"name": name, "namespace": "default", "labels": {"app": "h"}, "uid": name, "ownerReferences": [reference]}
    return msgspec.convert({"metadata": meta, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}, Pod)


async def test_a_budget_counts_what_a_custom_resource_is_set_to(tmp_path: Path) -> None:
    with Plane.start(tmp_path) as plane:
        config = KubeConfig(f"https://127.0.0.1:{plane.port}", Path(plane.pki.ca).read_bytes(), token=TOKEN)
        async with KubeClient(config) as client:
            await client.create(DEFINITIONS, DEFINITION)
            budgets, pods = Collection(DISRUPTION_BUDGETS, Budget), Collection(PODS, Pod)
            collections: dict[Resource, Collection[Any]] = {PODS: pods}
            scales, marked = Scales(client), asyncio.Event()
            controller = Disruptions(budgets, pods, {}, scales)
            controller.listen(lambda _: marked.set())
            kinds = OtherKinds(client, collections, Garbage(collections), lambda: None, scales)
            running = [asyncio.create_task(kinds.run(0.2)), asyncio.create_task(scales.run())]

            async def expected(number: int) -> None:
                async with asyncio.timeout(30):
                    while True:
                        marked.clear()
                        ops = controller.plan("default/b", 0.0).ops
                        if ops and isinstance(ops[0], Patch) and ops[0].body["status"].get("expectedPods") == number:
                            return
                        await marked.wait()

            async with asyncio.timeout(30):
                while HERDS not in collections:
                    await asyncio.sleep(0.02)
            herd = await client.create(HERDS, {"metadata": {"name": "h"}, "spec": {"heads": 5}}, "default")
            pods.saw("default/a", pod("a", herd), 1)
            budgets.saw("default/b", msgspec.convert({"metadata": {"name": "b", "namespace": "default"}, "spec": {
                "maxUnavailable": 1, "selector": {"matchLabels": {"app": "h"}}}}, Budget), 1)
            await expected(5)
            await client.patch(HERDS, "h", {"spec": {"heads": 7}}, "default", kind=MERGE)
            await expected(7)
            await client.patch(HERDS, "h", {"spec": {"heads": 0}}, "default", kind=MERGE)
            await expected(0)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
