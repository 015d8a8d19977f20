"""Registers this node, keeps its status true and its lease alive; watches whether the runtime is ready.

Labels, taints and conditions of others are left alone. Writes: the Node object, its status, its Lease.
Read next: `minik8s/kubelet/node_status.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from nodecore.errors import AlreadyExists, Fault, NotFound
from nodecore.kube.client import STRATEGIC, KubeClient
from nodecore.kube.resource import LEASES, NODES
from nodecore.loop.backoff import Backoff

from .config import Config
from .cri import Runtime
from .machine import Machine, disk_free_share, memory_available, pids_left
from .node_status import Health, node_labels, node_lease, node_status, replacing_addresses, without_heartbeat

log = logging.getLogger(__name__)
LEASE_PERIOD, STATUS_PERIOD, CHECK_PERIOD = 10.0, 300.0, 10.0
RUNTIME_UNREADY_PERIOD, RUNTIME_READY_PERIOD = 0.2, 5.0
RUNTIME_PATIENCE = 10.0


class NetworkNews(Protocol):
    """Who wants to know whether pods can have a network."""

    def __call__(self, *, ready: bool) -> None:
        """Take the news."""
        ...


@dataclass
class NodeKeeper:
    """This node's entry in the API."""

    config: Config
    machine: Machine
    client: KubeClient
    runtime: Runtime
    on_network: NetworkNews
    registered: asyncio.Event = field(default_factory=asyncio.Event)
    _not_ready: str = "container runtime status check has not run yet"
    _runtime_seen: float = 0.0
    _checked: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _node: dict[str, Any] = field(default_factory=dict)
    _last: dict[str, Any] = field(default_factory=dict)

    async def watch_runtime(self) -> None:
        """Ask the runtime how it is, for ever: often until it is ready, rarely then."""
        while True:
            problem, network = await self._runtime_problem()
            self.on_network(ready=network)
            if problem != self._not_ready:
                log.info("node is %s", f"not ready: {problem}" if problem else "ready")
                self._not_ready = problem
                self._changed.set()
            self._checked.set()
            await asyncio.sleep(RUNTIME_UNREADY_PERIOD if problem else RUNTIME_READY_PERIOD)

    async def _runtime_problem(self) -> tuple[str, bool]:
        try:
            found = await self.runtime.conditions()
        except Fault as error:
            if not self._not_ready and time.monotonic() - self._runtime_seen < RUNTIME_PATIENCE:
                return "", True
            return f"container runtime is down: {error}", False
        self._runtime_seen = time.monotonic()
        network, network_message = found.get("NetworkReady", (False, "no report"))
        ready, message = found.get("RuntimeReady", (False, "no report"))
        if not ready:
            return f"container runtime not ready: {message}", network
        return ("" if network else f"container runtime network not ready: {network_message}"), network

    def _health(self) -> Health:
        return Health(self._not_ready, memory_available(), disk_free_share(self.config.root_dir), pids_left())

    async def keep_status(self) -> None:
        """Register, then write the status on every change and each five minutes, for ever."""
        await self._checked.wait()
        await self._retry(self._register)
        self.registered.set()
        written = 0.0
        last: dict[str, Any] = {}
        while True:
            self._changed.clear()
            status = node_status(self.config, self.machine, self._health(), self._node.get("status") or {}, time.time())
            if without_heartbeat(status) != last or time.monotonic() - written >= STATUS_PERIOD:
                await self._retry(self._write_status)
                written, last = time.monotonic(), without_heartbeat(self._last)
            try:
                async with asyncio.timeout(CHECK_PERIOD):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _retry(self, action: Callable[[], Any]) -> None:
        backoff = Backoff(first=0.1, cap=2.0)
        while True:
            try:
                await action()
            except Fault as error:
                log.log(logging.WARNING if backoff.failures in (2, 10) else logging.DEBUG, "node %s: %s; trying again",
                        self.config.hostname_override, error)
                await asyncio.sleep(backoff.next())
            else:
                return

    async def _register(self) -> None:
        name = self.config.hostname_override
        labels = node_labels(self.config, self.machine)
        status = node_status(self.config, self.machine, self._health(), {}, time.time())
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {}, "status": status}
        try:
            self._node = await self.client.create(NODES, body)
            log.info("node %s registered", name)
        except AlreadyExists:
            self._node = await self.client.get(NODES, name)
            there = self._node["metadata"].get("labels") or {}
            missing = {key: value for key, value in labels.items() if there.get(key) != value}
            if missing:
                self._node = await self.client.patch(NODES, name, {"metadata": {"labels": missing}})
            log.info("node %s adopted", name)

    async def _write_status(self) -> None:
        name = self.config.hostname_override
        try:
            self._node = await self.client.get(NODES, name)
        except NotFound:
            await self._register()
        self._last = node_status(self.config, self.machine, self._health(), self._node.get("status") or {}, time.time())
        patch = {"status": replacing_addresses(self._last)}
        self._node = await self.client.patch(NODES, name, patch, kind=STRATEGIC, subresource="status")

    async def keep_lease(self) -> None:
        """Renew the lease every ten seconds, for ever."""
        await self.registered.wait()
        while True:
            await self._retry(self._renew)
            await asyncio.sleep(LEASE_PERIOD)

    async def _renew(self) -> None:
        name = self.config.hostname_override
        lease = node_lease(name, self._node.get("metadata", {}).get("uid", ""), time.time())
        try:
            await self.client.patch(LEASES, name, {"spec": lease["spec"]}, "kube-node-lease")
        except NotFound:
            await self.client.create(LEASES, lease, "kube-node-lease")
