"""The kubelet on one screen: who tells whom.

    pods bound here (informer) --+
    what the runtime holds (1 s) +--> PodWorker, one per pod --> runtime
    probes ----------------------+            |
                                              +--> StatusWriter --> API
    NodeKeeper: the Node object, its Lease, whether the runtime is ready
    server: logs, exec, attach, port-forward for the API server

Nothing is touched before the informer has synced: what runs is adopted, what the API no longer has is removed.
Read next: `minik8s/kubelet/worker.py`.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

from nodecore.errors import Fault, UserError
from nodecore.kube.client import KubeClient
from nodecore.kube.events import Recorder
from nodecore.kube.informer import Informer
from nodecore.kube.resource import PODS

from . import names
from .config import Config
from .cri import Fingerprint, Runtime
from .images import Images
from .machine import Machine, read_machine
from .node import NodeKeeper
from .probes import Prober
from .records import Container, Pod, name_of, uid_of
from .sandbox_config import NodeSettings
from .sources import PodSources
from .starting import Services
from .status_writer import StatusWriter
from .volumes import remove_pod_directory
from .worker import PodWorker

log = logging.getLogger(__name__)
POLL = 1.0


def settings_of(config: Config, machine: Machine) -> NodeSettings:
    """What pods' configurations take from this node."""
    return NodeSettings(
        config.hostname_override, config.node_ips, config.root_dir, config.pod_log_dir, config.cgroup_root, config.cluster_dns,
        config.cluster_domain, capacity={"cpu": machine.cpus, "memory": machine.memory, "ephemeral-storage": machine.disk},
    )


class Kubelet:
    """Holds the workers and feeds them."""

    def __init__(self, config: Config, machine: Machine, client: KubeClient, runtime: Runtime) -> None:
        self.config, self.runtime = config, runtime
        self.recorder = Recorder(client, "kubelet", config.hostname_override)
        self.prober = Prober(runtime, self._mark, self._probe_failed)
        self.writer = StatusWriter(client, self._written)
        self.services = Services(runtime, client, Images(runtime), self.prober, self.writer, self.recorder,
                                 settings_of(config, machine), PodSources(client))
        self.keeper = NodeKeeper(config, machine, client, runtime, self._network)
        mine = f"spec.nodeName={config.hostname_override}"
        self.informer: Informer[Pod] = Informer(client, PODS, fields=mine, on_item=self._pod)
        self.workers: dict[str, PodWorker] = {}
        self._uids: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._swept = False

    def _mark(self, uid: str) -> None:
        if uid in self.workers:
            self.workers[uid].mark()

    def _probe_failed(self, pod: Pod, container: str, message: str) -> None:
        self.recorder.emit(pod, "Warning", "Unhealthy", f"{container}: {message}")

    def _written(self, pod: Pod) -> None:
        worker = self.workers.get(uid_of(pod))
        if worker:
            worker.update(pod)

    def _network(self, *, ready: bool) -> None:
        if ready != self.services.network_ready:
            self.services.network_ready = ready
            for worker in self.workers.values():
                worker.mark()

    def _pod(self, key: str, pod: Pod | None) -> None:
        """The informer's news of one pod."""
        before = self._uids.pop(key, "")
        if pod is None or (before and before != uid_of(pod)):
            if before in self.workers:
                self.workers[before].vanish()
            if pod is None:
                return
        self._uids[key] = uid_of(pod)
        worker = self.workers.get(uid_of(pod))
        if worker:
            worker.update(pod)
        else:
            pod.setdefault("apiVersion", "v1")
            pod.setdefault("kind", "Pod")
            self._hire(PodWorker(self.services, pod))

    def _hire(self, worker: PodWorker) -> None:
        uid = uid_of(worker.pod)
        self.workers[uid] = worker
        task = asyncio.get_running_loop().create_task(self._employ(uid, worker), name=f"pod {name_of(worker.pod)}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _employ(self, uid: str, worker: PodWorker) -> None:
        await worker.run()
        self.workers.pop(uid, None)

    def running(self) -> list[Container]:
        """The containers that run on this node, as last seen."""
        return [run for worker in self.workers.values() for run in worker.actual.running()]

    async def poll(self) -> None:
        """Compare what the runtime holds with what each worker last saw, once a second, for ever."""
        while True:
            if self.informer.synced:
                try:
                    await self._compare(await self.runtime.listing())
                except Fault as error:
                    log.debug("runtime not polled: %s", error)
            await asyncio.sleep(POLL if self.informer.synced else 0.05)

    async def _compare(self, listing: dict[str, Fingerprint]) -> None:
        for uid, worker in list(self.workers.items()):
            if listing.get(uid, frozenset()) != worker.fingerprint:
                worker.mark()
        for uid in listing.keys() - self.workers.keys():
            orphan = await self._orphan(uid)
            if orphan and uid not in self.workers:
                log.info("%s: the API has no such pod: removing what is left of it", name_of(orphan))
                self._hire(PodWorker(self.services, orphan, gone=True))
        if not self._swept:
            self._swept = True
            self._sweep(set(self.workers))

    async def _orphan(self, uid: str) -> Pod | None:
        """As much of a pod's object as its sandbox's labels tell."""
        labels = await self.runtime.pod_labels(uid)
        if not labels:
            return None
        meta = {"uid": uid, "name": labels.get(names.POD, ""), "namespace": labels.get(names.NAMESPACE, "")}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []}}

    def _sweep(self, known: set[str]) -> None:
        """Directories of pods that went while no kubelet ran, whose sandboxes are gone as well."""
        pods = Path(self.config.root_dir) / "pods"
        for path in pods.iterdir() if pods.is_dir() else ():
            if path.name not in known:
                try:
                    remove_pod_directory(self.config.root_dir, path.name)
                except Fault as fault:
                    log.warning("what a pod left behind stays: %s", fault)
        logs = Path(self.config.pod_log_dir)
        for path in logs.iterdir() if logs.is_dir() else ():
            if path.name.count("_") == 2 and path.name.rpartition("_")[2] not in known:
                shutil.rmtree(path, ignore_errors=True)


async def wait_runtime(runtime: Runtime) -> str:
    """The runtime's version, as soon as it answers."""
    told = False
    while True:
        try:
            return await runtime.version()
        except Fault as error:
            if not told:
                log.info("waiting for the container runtime: %s", error)
                told = True
            await asyncio.sleep(0.1)


def _make_directories(config: Config) -> None:
    for flag, path in (("--root-dir", config.root_dir), ("--pod-log-dir", config.pod_log_dir)):
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{flag}: {path}: {error.strerror}") from None


async def run(config: Config) -> None:
    """Be the kubelet until told to stop; what runs goes on running."""
    from nodecore.daemon.heap import keep_small
    from nodecore.daemon.systemd import notify, watchdog
    from nodecore.kube.config import load
    from nodecore.loop.supervise import run_tasks

    from .log_rotation import rotate_logs
    from .server import listen, serve

    _make_directories(config)
    listener = listen(config)
    runtime = Runtime(config.container_runtime_endpoint)
    async with KubeClient(load(config.kubeconfig), user_agent="kubelet/flanneld-py") as client:
        machine = read_machine(config.root_dir, await wait_runtime(runtime))
        kubelet = Kubelet(config, machine, client, runtime)

        async def ready() -> None:
            await kubelet.keeper.registered.wait()
            notify("READY=1")
            await watchdog(lambda: True)

        try:
            await run_tasks({
                "pods": kubelet.informer.run(), "poll": kubelet.poll(), "status": kubelet.writer.run(),
                "events": kubelet.recorder.run(), "runtime": kubelet.keeper.watch_runtime(), "node": kubelet.keeper.keep_status(),
                "lease": kubelet.keeper.keep_lease(), "server": serve(kubelet, listener),
                "logs": rotate_logs(kubelet, limit=config.log_limit(), files=config.container_log_max_files),
                "ready": ready(), "heap": keep_small(),
            })
        finally:
            await runtime.close()
