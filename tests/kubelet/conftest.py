"""One cell with a running kubelet for the whole directory, and the few words tests need to talk about pods."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from minik8s.kubelet.cri import Runtime
from nodecore.errors import Fault, NotFound
from nodecore.kube.client import KubeClient
from nodecore.kube.config import KubeConfig
from nodecore.kube.resource import NODES, PODS, Resource
from tests.cuttable import Forwarder, forwarder
from tests.plane import TOKEN, Plane

from .cell import NODE, Cell, cell

Pod = dict[str, Any]
BUSYBOX = "lab.local/busybox:1"


class Stage:
    """A cell, a control plane and a client of it; `way` is the kubelet's connection to the API, which can be cut."""

    def __init__(self, made: Cell, plane: Plane, client: KubeClient, way: Forwarder, kubeconfig: Path) -> None:
        self.cell, self.plane, self.client, self.way, self.kubeconfig = made, plane, client, way, kubeconfig

    async def kubectl(self, *argv: str, check: bool = True, body: Any = None) -> str:
        """The real kubectl, beside the event loop that carries the API server's connections to the kubelet."""
        return await asyncio.to_thread(self.plane.kubectl, *argv, check=check, body=body)

    async def maps_ports(self) -> bool:
        """Whether the cell's containerd has taken up a network configuration that maps host ports."""
        runtime = Runtime(f"unix:///proc/{self.cell.pid}/root/run/containerd/containerd.sock")
        try:
            return await runtime.maps_ports()
        finally:
            await runtime.close()

    async def version(self) -> str:
        """Where the API stands."""
        return (await self.client.list(PODS)).version

    async def told(self, resource: Resource, name: str, since: str) -> list[dict[str, Any]]:
        """Every state of an object after `since`."""
        events = self.client.watch(resource, since, fields=f"metadata.name={name}", timeout=1)
        return [event.object async for event in events if event.object]

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

    async def until(self, name: str, good: Callable[[Any], Any], *, within: float = 90) -> Any:
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
    """The API server is on the host's loopback: two forwarders join it and the cell, whose kubelet's port is the same outside."""
    directory = kubelet_cell.directory
    inner, outer = kubelet_cell.listen(), socket.create_server(("127.0.0.1", 0))
    kubelet_cell.kubelet_port = outer.getsockname()[1]
    trust = ("--kubelet-client-certificate", f"{directory}/client.crt", "--kubelet-client-key", f"{directory}/client.key",
             "--kubelet-certificate-authority", f"{directory}/ca.crt")
    (directory / "plane").mkdir()
    kubeconfig = directory / "kubeconfig"
    with Plane.start(directory / "plane", *trust) as plane:
        kubeconfig.write_text(json.dumps(plane.config("kubelet-token", inner.getsockname()[1])))
        config = KubeConfig(f"https://127.0.0.1:{plane.port}", Path(plane.pki.ca).read_bytes(), token=TOKEN)
        async with (forwarder(plane.port, listen=inner) as way,
                    forwarder(0, listen=outer, dial=lambda: kubelet_cell.connect(kubelet_cell.kubelet_port)),
                    KubeClient(config) as client):
            made = Stage(kubelet_cell, plane, client, way, kubeconfig)
            kubelet_cell.start_kubelet(kubeconfig)
            await node_ready(made)
            yield made
            kubelet_cell.kill("kubelet")


async def node_ready(made: Stage) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while True:
        try:
            node: dict[str, Any] = await made.client.get(NODES, NODE)
            if is_ready(node):
                return node
        except Fault:
            pass
        assert time.monotonic() < deadline, made.cell.log("kubelet")[-6000:]
        await asyncio.sleep(0.05)
