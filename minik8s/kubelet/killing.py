"""Carries out one `Kill`: preStop hook, SIGTERM, SIGKILL, for several containers at once, all within one grace period.

The grace may shrink while it runs (a second `kubectl delete --grace-period=...`): `remaining` is asked whenever `nudged` fires.
Read next: `minik8s/kubelet/worker.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from nodecore.errors import Fault, NotFound

from .handlers import handle
from .plan import Kill
from .records import Container, Pod
from .starting import Services, container_spec

LEAST_AFTER_HOOK = 2.0


async def kill_containers(services: Services, pod: Pod, op: Kill, pod_ip: str, nudged: asyncio.Event,
                          current_grace: Callable[[], float | None], on_nudge: Callable[[], Awaitable[None]]) -> None:
    """Return once every container of the op has ended."""
    begin, grace = time.monotonic(), op.grace
    tasks = {asyncio.create_task(_kill_one(services, pod, op, run, pod_ip)): run for run in op.containers}
    extra: list[asyncio.Task[None]] = []
    try:
        while any(not task.done() for task in tasks):
            nudge = asyncio.create_task(nudged.wait())
            await asyncio.wait([nudge, *(task for task in tasks if not task.done())], return_when=asyncio.FIRST_COMPLETED)
            nudge.cancel()
            if not nudged.is_set():
                continue
            nudged.clear()
            wanted = current_grace()
            if wanted is not None and wanted < grace:
                grace = wanted
                left = max(0.0, begin + grace - time.monotonic())
                extra += [asyncio.create_task(_stop(services, run, left)) for task, run in tasks.items() if not task.done()]
            await on_nudge()
        await asyncio.gather(*tasks)
    finally:
        for task in (*tasks, *extra):
            task.cancel()
        await asyncio.gather(*tasks, *extra, return_exceptions=True)


async def _kill_one(services: Services, pod: Pod, op: Kill, run: Container, pod_ip: str) -> None:
    services.recorder.emit(pod, "Normal", "Killing", f"Stopping container {run.name}" if "deleted" in op.why else op.why)
    spec = container_spec(pod, run.name)
    hook = (spec.get("lifecycle") or {}).get("preStop")
    left = op.grace
    if hook and op.grace > 0:
        begin = time.monotonic()
        outcome = await handle(services.runtime, hook, spec, run, pod_ip, op.grace)
        if not outcome.ok:
            services.recorder.emit(pod, "Warning", "FailedPreStopHook", f"PreStopHook failed: {outcome.message}")
        left = max(LEAST_AFTER_HOOK, op.grace - (time.monotonic() - begin))
    await _stop(services, run, left)


async def _stop(services: Services, run: Container, grace: float) -> None:
    try:
        await services.runtime.stop_container(run.id, grace)
    except NotFound:
        pass
    except Fault as error:
        raise Fault(f"container {run.name}: {error}") from None
