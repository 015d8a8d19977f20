"""The scheduler's process: what waits, what was decided, how it is written.

A pod that was bound counts on its node from that moment, whether or not the watch has shown it yet. One that fits nowhere waits
for a change of a node or the end of a pod, no more often than its back-off allows. Read next: `minik8s/scheduler/decide.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from nodecore.daemon import health, systemd
from nodecore.daemon.heap import keep_small
from nodecore.errors import Busy, Fault, NotFound, Unreachable, UserError
from nodecore.kube import config as kubeconfig
from nodecore.kube.client import STRATEGIC, KubeClient, wait_reachable
from nodecore.kube.election import Election
from nodecore.kube.events import Recorder, reference
from nodecore.kube.informer import Informer
from nodecore.kube.resource import NODES, PODS, SERVICES
from nodecore.kube.workload import Node, Pod
from nodecore.loop.backoff import Backoff
from nodecore.loop.reconcile import Reconciler
from nodecore.loop.supervise import run_tasks

from .cluster import Cluster, Load, Selecting, in_order
from .decide import Bind, Refuse, decide

log = logging.getLogger(__name__)
NAME = "default-scheduler"
AT_ONCE = 32


@dataclass(slots=True)
class Waiting:
    """A pod without a node: from when it may be tried again, and what it was told last."""

    pod: Pod
    due: float = 0.0
    refused: bool = False
    message: str = ""
    backoff: Backoff = field(default_factory=lambda: Backoff(first=0.1, cap=10.0))


class Binder:
    """The scheduler as the target of the reconcile loop."""

    def __init__(self, client: KubeClient, recorder: Recorder) -> None:
        self.client, self.recorder = client, recorder
        self.cluster = Cluster()
        self.waiting: dict[str, Waiting] = {}
        self.assumed: dict[str, str] = {}
        self.wake: Callable[[], None] = lambda: None
        self.all_synced: Callable[[], bool] = lambda: False
        self._uids: dict[str, str] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    def saw_pod(self, key: str, pod: Pod | None) -> None:
        """The watch says so."""
        before = self._uids.pop(key, None)
        if before and (pod is None or pod.metadata.uid != before):
            self._gone(before)
        if pod is None:
            return
        uid = pod.metadata.uid
        self._uids[key] = uid
        if pod.finished:
            self._gone(uid)
        elif pod.spec.node_name:
            self.waiting.pop(uid, None)
            self.assumed.pop(uid, None)
            self._put(pod, pod.spec.node_name)
        elif uid not in self.assumed:
            self._wait(pod)

    def _wait(self, pod: Pod) -> None:
        uid, spec = pod.metadata.uid, pod.spec
        if pod.metadata.deletion_timestamp or spec.scheduler_name not in ("", NAME) or spec.scheduling_gates:
            self.waiting.pop(uid, None)
            return
        entry = self.waiting.get(uid)
        if entry is None:
            self.waiting[uid] = Waiting(pod)
            self.wake()
            return
        if entry.pod.spec != pod.spec:
            entry.refused = False
            self.wake()
        entry.pod = pod

    def _put(self, pod: Pod, node: str) -> None:
        try:
            self.cluster.put(Load.of(pod), node)
        except UserError as error:
            log.warning("pod %s: %s; counted as asking for nothing", pod.metadata.key, error)
            self.cluster.put(Load(pod, {}, (), ""), node)

    def _gone(self, uid: str) -> None:
        self.waiting.pop(uid, None)
        self.assumed.pop(uid, None)
        self.cluster.remove(uid)
        self.reconsider()

    def saw_node(self, key: str, node: Node | None) -> None:
        """The watch says so."""
        old = self.cluster.places.get(key)
        if node is None:
            self.cluster.remove_node(key)
            return
        try:
            self.cluster.set_node(node)
        except UserError as error:
            log.warning("node %s: %s; not used", key, error)
            self.cluster.remove_node(key)
            return
        if old is None or old.node.spec != node.spec or old.node.metadata.labels != node.metadata.labels or (
                old.allocatable != self.cluster.places[key].allocatable or old.node.ready != node.ready):
            self.reconsider()

    def saw_service(self, key: str, service: Selecting | None) -> None:
        """The watch says so."""
        if service is None:
            self.cluster.services.pop(key, None)
        else:
            self.cluster.services[key] = service

    def reconsider(self) -> None:
        """What was refused may fit now."""
        for entry in self.waiting.values():
            entry.refused = False
        if self.waiting:
            self.wake()

    def synced(self) -> bool:
        """Whether pods, nodes and Services have been read once."""
        return self.all_synced()

    def desired(self) -> list[Pod]:
        """The pods to serve now, in their order; for those whose back-off runs, an alarm is set."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        ready = [entry for entry in self.waiting.values() if not entry.refused]
        late = min((entry.due for entry in ready if entry.due > now), default=None)
        if late is not None:
            loop.call_at(late + 0.001, self.wake)
        return in_order(entry.pod for entry in ready if entry.due <= now)

    async def observe(self, wanted: list[Pod]) -> None:
        """Nothing: the cluster is kept by the watches."""

    def plan(self, actual: None, wanted: list[Pod]) -> Sequence[Bind | Refuse]:
        """A decision for each."""
        return decide(self.cluster, wanted) if wanted else ()

    async def apply(self, ops: Sequence[Bind | Refuse]) -> None:
        """Write the decisions; only an API that is away fails them all."""
        for op in ops:
            if isinstance(op, Bind):
                self.assumed[op.pod.metadata.uid] = op.node
                self.cluster.put(op.load, op.node)
        results = await asyncio.gather(*(self._one(op) for op in ops), return_exceptions=True)
        failed = [each for each in results if isinstance(each, Exception)]
        if failed:
            raise ExceptionGroup("decisions not written", failed)

    async def _one(self, op: Bind | Refuse) -> None:
        async with self._room:
            await (self._bind(op) if isinstance(op, Bind) else self._refuse(op))

    async def _bind(self, op: Bind) -> None:
        meta, uid = op.pod.metadata, op.pod.metadata.uid
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": uid},
                "target": {"apiVersion": "v1", "kind": "Node", "name": op.node}}
        try:
            await self.client.create(PODS, body, meta.namespace, subresource="binding", name=meta.name)
        except (Unreachable, Busy):
            self._postpone(uid)
            raise
        except Fault as error:
            self._unassume(op)
            if isinstance(error, NotFound) or await self._bound_already(op):
                return
            self._postpone(uid)
            log.warning("bind %s to %s: %s", meta.key, op.node, error)
            self.recorder.emit(_ref(op.pod), "Warning", "FailedScheduling", f"binding rejected: {error}")
            return
        self.waiting.pop(uid, None)
        self.recorder.emit(_ref(op.pod), "Normal", "Scheduled", f"Successfully assigned {meta.key} to {op.node}")

    async def _bound_already(self, op: Bind) -> bool:
        """Whether it has a node after all: a binding of ours whose answer was lost, or somebody else's."""
        try:
            pod: Pod = await self.client.get(PODS, op.pod.metadata.name, op.pod.metadata.namespace, into=Pod)
        except Fault:
            return False
        if pod.metadata.uid == op.pod.metadata.uid and pod.spec.node_name:
            self.saw_pod(pod.metadata.key, pod)
            return True
        return False

    def _unassume(self, op: Bind) -> None:
        """The binding was refused; if the watch has shown one meanwhile, that counts."""
        uid = op.pod.metadata.uid
        if self.assumed.pop(uid, None) is not None:
            self.cluster.remove(uid)

    def _postpone(self, uid: str) -> Waiting | None:
        entry = self.waiting.get(uid)
        if entry:
            entry.due = asyncio.get_running_loop().time() + entry.backoff.next()
            self.wake()
        return entry

    async def _refuse(self, op: Refuse) -> None:
        entry = self._postpone(op.pod.metadata.uid)
        if entry is None:
            return
        entry.refused = True
        self.recorder.emit(_ref(op.pod), "Warning", "FailedScheduling", op.message)
        if entry.message == op.message:
            return
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": op.message}
        meta = op.pod.metadata
        try:
            await self.client.patch(PODS, meta.name, {"status": {"conditions": [condition]}}, meta.namespace, kind=STRATEGIC,
                                    subresource="status")
        except NotFound:
            return
        entry.message = op.message

    def forget(self) -> None:
        """Nothing is cached but what the watches and bindings say."""


def _ref(pod: Pod) -> dict[str, str]:
    meta = pod.metadata
    return reference("v1", "Pod", meta.namespace, meta.name, meta.uid)


async def run(path: str, identity: str, healthz_port: int, *, leader_elect: bool, lease: float) -> None:
    """Schedule until a signal comes or the lease is lost."""
    async with KubeClient(kubeconfig.load(path), user_agent="kube-scheduler") as client:
        await wait_reachable(client)
        recorder = Recorder(client, NAME)
        binder = Binder(client, recorder)
        loop = Reconciler("scheduler", binder, backoff=Backoff(first=0.05, cap=5.0))
        ready = asyncio.Event()
        informers: list[Informer[Any]] = []

        def on_change() -> None:
            if not ready.is_set() and binder.synced():
                ready.set()
                loop.mark()

        informers += [
            Informer(client, NODES, into=Node, on_change=on_change, on_item=binder.saw_node),
            Informer(client, PODS, into=Pod, on_change=on_change, on_item=binder.saw_pod),
            Informer(client, SERVICES, into=Selecting, on_change=on_change, on_item=binder.saw_service),
        ]
        binder.all_synced = lambda: all(each.synced for each in informers)
        binder.wake = loop.mark
        election, leading = Election(client, "kube-scheduler", identity, duration=lease), asyncio.Event()
        tasks: dict[str, Coroutine[Any, Any, None]] = {f"watch {each.resource.plural}": each.run() for each in informers}
        tasks["events"] = recorder.run()
        tasks["ready"] = _tell_ready(ready)
        tasks["scheduler"] = _after(leading, loop)
        if leader_elect:
            tasks["election"] = _lead(election, leading)
        else:
            leading.set()
        if healthz_port:
            check = health.check(lambda: binder.synced() and loop.condition.failures < loop.unhealthy_after)
            health.serve("127.0.0.1", healthz_port, {"/healthz": check, "/readyz": check})
        try:
            await run_tasks({**tasks, "heap": keep_small(), "watchdog": systemd.watchdog(lambda: loop.alive)})
        finally:
            if leading.is_set() and leader_elect:
                await election.release()


async def _lead(election: Election, leading: asyncio.Event) -> None:
    await election.acquire()
    leading.set()
    await election.hold()


async def _after(leading: asyncio.Event, loop: Reconciler) -> None:
    await leading.wait()
    await loop.run()


async def _tell_ready(ready: asyncio.Event) -> None:
    await ready.wait()
    systemd.notify("READY=1")
    await asyncio.Event().wait()
