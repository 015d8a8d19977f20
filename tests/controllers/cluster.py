"""What the tests put into the API in the kubelet's place: nodes, heartbeats, pods that become ready, pods that are gone."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from nodecore.errors import Fault
from nodecore.kube import config
from nodecore.kube.client import STRATEGIC, KubeClient
from nodecore.kube.informer import Informer
from nodecore.kube.resource import PODS
from tests.plane import Plane


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node(name: str, *, cpu: str = "4", **labels: str) -> dict[str, Any]:
    amounts = {"cpu": cpu, "memory": "8Gi", "pods": "110"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": now(),
             "lastTransitionTime": now()}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
            "spec": {}, "status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}}


def deployment(name: str = "web", replicas: int = 3, image: str = "web:1", **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "web", "image": image, "ports": [{"containerPort": 8080, "name": "http"}]}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, **spec,
                     "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}}


def service(name: str = "web") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}


class Kubelets:
    """Every node's kubelet: a bound pod becomes ready with an address of its own, a deleted one is gone at once."""

    def __init__(self, client: KubeClient) -> None:
        self.client = client
        self.most_active = 0
        self.fewest_ready: int | None = None
        self.watching = ""
        self._changed = asyncio.Event()
        self._addresses: dict[str, int] = {}  # a pod served twice, before our own write was seen, keeps its address
        self.pods: Informer[dict[str, Any]] = Informer(client, PODS, on_change=self._look)

    def _look(self) -> None:
        if self.watching:
            ready = self.ready(self.watching)
            self.most_active = max(self.most_active, len(self._active(self.watching)))
            self.fewest_ready = ready if self.fewest_ready is None else min(self.fewest_ready, ready)
        self._changed.set()

    def _active(self, app: str) -> list[dict[str, Any]]:
        mine = [pod for pod in list(self.pods.items.values()) if pod["metadata"].get("labels", {}).get("app") == app]
        return [pod for pod in mine if not pod["metadata"].get("deletionTimestamp")]

    def ready(self, app: str) -> int:
        """How many pods of an app are, as far as is known here."""
        return sum(is_ready(pod) for pod in self._active(app))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pods.run())
            while True:
                await self._changed.wait()
                self._changed.clear()
                for pod in list(self.pods.items.values()):
                    if pod["spec"].get("nodeName") and "mute" not in pod["spec"]["nodeName"]:
                        with contextlib.suppress(Fault):
                            await self._serve(pod)

    async def _serve(self, pod: dict[str, Any]) -> None:
        meta = pod["metadata"]
        if meta.get("deletionTimestamp"):
            await self.client.delete(PODS, meta["name"], meta["namespace"], grace=0, uid=meta["uid"])
            return
        broken = any("broken" in container["image"] for container in pod["spec"]["containers"])
        if is_ready(pod) or broken:
            return
        serial = self._addresses.setdefault(meta["uid"], len(self._addresses) + 1)
        address = f"10.244.{serial // 250}.{serial % 250 + 1}"
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "startTime": now(), "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": now()}]}
        await self.client.patch(PODS, meta["name"], {"status": status}, meta["namespace"], kind=STRATEGIC, subresource="status")


def is_ready(pod: dict[str, Any]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod.get("status", {}).get("conditions") or [])


@contextlib.contextmanager
def kubelets(plane: Plane) -> Iterator[Kubelets]:
    """Kubelets in a thread of their own, so that tests may wait for kubectl."""
    started = threading.Event()
    holder: list[Any] = []

    async def serve() -> None:
        async with KubeClient(config.load(str(plane.kubeconfig))) as client:
            served = Kubelets(client)
            task = asyncio.current_task()
            holder.extend([served, asyncio.get_running_loop(), task])
            started.set()
            with contextlib.suppress(asyncio.CancelledError):
                await served.run()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield holder[0]
    finally:
        holder[1].call_soon_threadsafe(holder[2].cancel)
        thread.join(10)
