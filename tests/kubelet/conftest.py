"""One cell with a running kubelet for the whole directory, and the few words tests need to talk about pods."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from nodecore.errors import Fault, NotFound
from nodecore.kube.client import KubeClient
from nodecore.kube.config import KubeConfig
from nodecore.kube.resource import NODES, PODS

from .cell import NODE, Cell, cell
from .smallapi import SmallApi

Pod = dict[str, Any]
BUSYBOX = "lab.local/busybox:1"


class Stage:
    """A cell, an API and a client of it."""

    def __init__(self, made: Cell, api: SmallApi, client: KubeClient, kubeconfig: Path) -> None:
        self.cell, self.api, self.client, self.kubeconfig = made, api, client, kubeconfig

    async def run(self, name: str, command: list[str] | str, *, spec: dict[str, Any] | None = None, **container: Any) -> Pod:
        argv = ["sh", "-c", command] if isinstance(command, str) else command
        one = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": argv, **container}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
                "spec": {"nodeName": NODE, "containers": [one], "restartPolicy": "Always", "terminationGracePeriodSeconds": 5,
                         **(spec or {})}}
        made: Pod = await self.client.create(PODS, body, "default")
        return made

    async def pod(self, name: str) -> Pod | None:
        try:
            found: Pod = await self.client.get(PODS, name, "default")
        except NotFound:
            return None
        return found

    async def until(self, name: str, good: Callable[[Any], Any], *, within: float = 20) -> Any:
        """The pod, as soon as `good(pod)`; `good(None)` is asked once it is gone."""
        deadline = time.monotonic() + within
        while True:
            pod = await self.pod(name)
            if good(pod):
                return pod
            logs = f"{self.cell.log('kubelet')[-6000:]}\n{self.cell.log('containerd')[-3000:]}"
            assert time.monotonic() < deadline, f"{json.dumps(pod, indent=1)}\n{logs}"
            await asyncio.sleep(0.05)

    async def ready(self, name: str, **kw: Any) -> Pod:
        found: Pod = await self.until(name, is_ready, **kw)
        return found

    async def delete(self, name: str, grace: int | None = None) -> None:
        await self.client.delete(PODS, name, "default", grace=grace)

    async def gone(self, name: str, **kw: Any) -> None:
        await self.until(name, lambda pod: pod is None, **kw)


def is_ready(pod: Pod | None) -> bool:
    conditions = ((pod or {}).get("status") or {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def first(pod: Pod | None, key: str = "containerStatuses") -> dict[str, Any]:
    found: list[dict[str, Any]] = ((pod or {}).get("status") or {}).get(key) or [{}]
    return found[0]


def phase(pod: Pod | None) -> str:
    return str(((pod or {}).get("status") or {}).get("phase", ""))


def state(pod: Pod | None) -> dict[str, Any]:
    return first(pod).get("state") or {}


@pytest.fixture(scope="session")
def kubelet_cell() -> Iterator[Cell]:
    directory = Path(tempfile.mkdtemp(prefix="kubelet-test-", dir="/var/tmp"))
    try:
        with cell(directory) as made:
            yield made
    finally:
        shutil.rmtree(directory)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage(kubelet_cell: Cell) -> AsyncIterator[Stage]:
    api = SmallApi()
    inner, outer = kubelet_cell.listen()
    await api.start(inner, outer)
    kubeconfig = kubelet_cell.directory / "kubeconfig"
    server = "http://{}:{}".format(*inner.getsockname())
    kubeconfig.write_text(json.dumps({
        "current-context": "cell", "contexts": [{"name": "cell", "context": {"cluster": "cell", "user": "cell"}}],
        "clusters": [{"name": "cell", "cluster": {"server": server}}], "users": [{"name": "cell", "user": {}}]}))
    async with KubeClient(KubeConfig("http://{}:{}".format(*outer.getsockname()))) as client:
        made = Stage(kubelet_cell, api, client, kubeconfig)
        kubelet_cell.start_kubelet(kubeconfig)
        await node_ready(made)
        yield made
        kubelet_cell.kill("kubelet")
    await api.stop()


async def node_ready(made: Stage) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while True:
        try:
            node: dict[str, Any] = await made.client.get(NODES, NODE)
            if is_ready(node):
                return node
        except Fault:
            pass
        assert time.monotonic() < deadline, made.cell.log("kubelet")[-6000:]
        await asyncio.sleep(0.05)
