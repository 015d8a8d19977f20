"""One pod's only writer: observe, plan, do, tell; again whenever something may have changed.

    mark()  <- the informer, the runtime poll, a probe, a timer
    pass    observe (runtime) -> plan (pure) -> status to the writer -> ops, one after another -> observe again

A failed op never stops the others; it leaves a reason in `waiting` for the status and is tried again after a back-off.
Read next: `minik8s/kubelet/plan.py`, `minik8s/kubelet/starting.py`, `minik8s/kubelet/killing.py`.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field

from nodecore.errors import Fault
from nodecore.loop.backoff import Backoff
from nodecore.loop.reconcile import describe_error

from . import names
from .cgroups import remove_pod_cgroup
from .cri import Fingerprint
from .killing import kill_containers
from .log_rotation import remove_logs
from .plan import (
    GRACE_OF_THE_VANISHED,
    CleanUp,
    Kill,
    MakeSandbox,
    PodOp,
    RemoveContainer,
    RemoveSandbox,
    Start,
    StopSandbox,
    deletion_grace,
    plan_pod,
)
from .records import Actual, Pod, View, deleting, name_of, uid_of
from .sandbox_config import port_mappings, sandbox_config
from .starting import Services, StartFault, start_container
from .status import pod_ips, pod_status, same_status
from .unsupported import unsupported
from .volumes import has_api_volumes, prepare_volumes, remove_pod_directory

log = logging.getLogger(__name__)
ROUNDS = 30
VOLUME_REFRESH = 60.0


@dataclass
class _Blocked:
    """An op that failed: when it may be tried again."""

    until: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(first=0.4, cap=20.0))


@dataclass
class PodWorker:
    """The life of one pod on this node; `done` when nothing of it is left."""

    services: Services
    pod: Pod
    gone: bool = False
    fingerprint: Fingerprint = frozenset()
    done: bool = False
    actual: Actual = field(default_factory=Actual)
    _dirty: asyncio.Event = field(default_factory=asyncio.Event)
    _leaving: asyncio.Event = field(default_factory=asyncio.Event)
    _wake: float | None = None
    _waiting: dict[str, tuple[str, str]] = field(default_factory=dict)
    _blocked: dict[str, _Blocked] = field(default_factory=dict)
    _backoff: Backoff = field(default_factory=lambda: Backoff(first=0.1, cap=2.0))
    _cleaned: bool = False
    _refused: str = ""
    _next_refresh: float = 0.0

    def __post_init__(self) -> None:
        self._refused = unsupported(self.pod)
        if self._refused and not self.gone:
            self.services.recorder.emit(self.pod, "Warning", "Unsupported", self._refused)
        self._dirty.set()

    def mark(self) -> None:
        """Something may have changed: look again."""
        self._dirty.set()

    def update(self, pod: Pod) -> None:
        """The API has a newer version of the pod."""
        if _version(pod) >= _version(self.pod):
            self.pod = pod
            if deleting(pod):
                self._leaving.set()
            self._dirty.set()

    def waiting_for(self, name: str) -> str:
        """Why a container is not there yet."""
        return self._waiting.get(name, ("ContainerCreating", ""))[0]

    def vanish(self) -> None:
        """The API no longer has the pod."""
        self.gone = True
        self._leaving.set()
        self._dirty.set()

    async def run(self) -> None:
        """Work until nothing of the pod is left."""
        while not self.done:
            await self._until_due()
            try:
                await self._pass()
                self._backoff.reset()
            except Fault as error:
                await self._failed(error, None)
            except Exception as error:
                await self._failed(error, error)
        self.services.prober.forget(uid_of(self.pod))

    async def _failed(self, error: Exception, trace: Exception | None) -> None:
        log.log(logging.ERROR if trace else logging.WARNING, "%s: %s", name_of(self.pod), describe_error(error), exc_info=trace)
        await asyncio.sleep(self._backoff.next())
        self._dirty.set()

    async def _until_due(self) -> None:
        """Wait for a mark, or for the moment the last plan said to look again."""
        if self._wake is None:
            await self._dirty.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.01, self._wake - time.time())):
                await self._dirty.wait()

    async def _look(self) -> View:
        """Read the runtime, feed the prober, tell the API; returns what the plan is made from."""
        uid = uid_of(self.pod)
        self.actual, self.fingerprint = await self.services.runtime.observe(uid)
        if not self.gone:
            ips = pod_ips(self.pod, self.actual, self.services.node.ips)
            self.services.prober.watch(self.pod, self.actual, ips[0] if ips else "")
        verdicts = self.services.prober.verdicts(self.pod)
        view = View(time.time(), self.services.network_ready, verdicts, self._waiting, self._refused)
        if not self.gone and not self._cleaned:
            self._tell(view)
        return view

    def _tell(self, view: View) -> None:
        status = pod_status(self.pod, self.actual, view, self.services.node.ips)
        pending = self.services.writer.pending(uid_of(self.pod))
        if not same_status(status, pending if pending is not None else self.pod.get("status") or {}):
            self.services.writer.put(self.pod, status)

    async def _pass(self) -> None:
        for _ in range(ROUNDS):
            self._dirty.clear()
            view = await self._look()
            plan = plan_pod(self.pod, self.actual, view, gone=self.gone)
            self._wake = plan.wake
            if not await self._apply(plan.ops):
                break
        await self._refresh_volumes()

    async def _apply(self, ops: tuple[PodOp, ...]) -> bool:
        """Do what is not waiting for its next try; says whether it is worth looking again at once."""
        urgent = self.gone or deleting(self.pod)
        progress = failed = False
        for op in ops:
            blocked = self._blocked.get(op.describe())
            if blocked and blocked.until > time.time() and not urgent:
                self._wake_by(blocked.until)
            elif isinstance(op, CleanUp) and (failed or self._cleaned):
                self.done = self.gone and self._cleaned
            elif await self._try(op):
                progress = True
            else:
                failed = True
        if failed:
            await self._look()
        return progress and not failed and not self.done

    async def _try(self, op: PodOp) -> bool:
        log.info("%s: %s", name_of(self.pod), op.describe())
        try:
            await self._do(op)
        except Fault as error:
            log.warning("%s: %s: %s", name_of(self.pod), op.describe(), error)
            blocked = self._blocked.setdefault(op.describe(), _Blocked())
            blocked.until = time.time() + blocked.backoff.next()
            if isinstance(error, StartFault) and isinstance(op, Start):
                self._waiting[op.name] = (error.reason, str(error))
                blocked.until = error.retry or blocked.until
            self._wake_by(blocked.until)
            return False
        self._blocked.pop(op.describe(), None)
        return True

    def _wake_by(self, moment: float) -> None:
        self._wake = min(self._wake or moment, moment)

    async def _do(self, op: PodOp) -> None:
        runtime = self.services.runtime
        if isinstance(op, MakeSandbox):
            await self._make_sandbox(op)
        elif isinstance(op, Start):
            box = self.actual.current
            ips, attempt = (box.ips, box.attempt) if box else ((), 0)
            await start_container(self.services, self.pod, op, ips, attempt, self._leaving)
            self._waiting.pop(op.name, None)
        elif isinstance(op, Kill):
            await self._kill(op)
        elif isinstance(op, RemoveContainer):
            await runtime.remove_container(op.id)
            for run in self.actual.containers:
                if run.id == op.id:
                    remove_logs(run)
        elif isinstance(op, StopSandbox):
            await runtime.stop_sandbox(op.id)
        elif isinstance(op, RemoveSandbox):
            await runtime.stop_sandbox(op.id)
            await runtime.remove_sandbox(op.id)
        else:
            await self._clean_up()

    async def _make_sandbox(self, op: MakeSandbox) -> None:
        try:
            await self._check_ports()
            async with self.services.limit:
                await self.services.runtime.start_sandbox(sandbox_config(self.pod, self.services.node, op.attempt))
        except Fault as error:
            self.services.recorder.emit(self.pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            raise

    async def _check_ports(self) -> None:
        """A network that maps no ports would leave hostPorts out without a word."""
        ports = port_mappings(self.pod)
        if ports and not await self.services.runtime.maps_ports():
            why = "this node's network configuration has no plugin with the capability portMappings"
            raise Fault(f"hostPort {ports[0]['host_port']} is not supported: {why}")

    async def _kill(self, op: Kill) -> None:
        box = self.actual.current

        def current_grace() -> float | None:
            if self.gone:
                return GRACE_OF_THE_VANISHED
            return deletion_grace(self.pod) if deleting(self.pod) else None

        async def look() -> None:
            with suppress(Fault):
                await self._look()

        ip = (box.ips if box and box.ips else self.services.node.ips)[0]
        await kill_containers(self.services, self.pod, op, ip, self._dirty, current_grace, look)

    async def _clean_up(self) -> None:
        node, uid, meta = self.services.node, uid_of(self.pod), self.pod["metadata"]
        self.services.prober.forget(uid)
        self.services.sources.forget(uid)
        remove_pod_directory(node.root_dir, uid)
        logs = names.log_directory(node.log_dir, meta.get("namespace", "default"), meta["name"], uid)
        shutil.rmtree(logs, ignore_errors=True)
        if node.cgroup_root:
            for _ in range(20):
                if remove_pod_cgroup(node.cgroup_root, uid):
                    break
                await asyncio.sleep(0.1)
        self._cleaned = True
        if self.gone:
            self.done = True
        else:
            self.services.writer.delete(self.pod)

    async def _refresh_volumes(self) -> None:
        """Let running containers see what changed in the ConfigMaps and Secrets they mount."""
        if self.gone or deleting(self.pod) or not self.actual.running() or not has_api_volumes(self.pod):
            return
        now = time.time()
        if self._next_refresh and now >= self._next_refresh:
            box = self.actual.current
            try:
                sources = await self.services.sources.of(self.pod, self.services.node, box.ips if box else ())
                prepare_volumes(self.pod, self.services.node.root_dir, sources)
            except Fault as error:
                log.debug("%s: volumes not refreshed: %s", name_of(self.pod), error)
        if not self._next_refresh or now >= self._next_refresh:
            self._next_refresh = now + VOLUME_REFRESH
        self._wake_by(self._next_refresh)


def _version(pod: Pod) -> int:
    text = str(pod["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdecimal() else 0
