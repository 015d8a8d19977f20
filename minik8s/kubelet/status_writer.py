"""Tells the API how the pods are: the newest status of each, written by one task, so that no pod waits for the API.

A status that cannot be written because the API is away stays wanted; one whose pod is gone or replaced is dropped.
Must not know: how a status is made. Read next: `minik8s/kubelet/status.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nodecore.errors import Conflict, Denied, Fault, Invalid, NotFound
from nodecore.kube.client import KubeClient
from nodecore.kube.resource import PODS
from nodecore.loop.backoff import Backoff

from .records import Pod, name_of, uid_of

log = logging.getLogger(__name__)
AT_ONCE = 8


@dataclass(slots=True)
class _Wanted:
    pod: Pod
    status: dict[str, Any] | None = None
    delete: bool = False


@dataclass
class StatusWriter:
    """`put` and `delete` return at once; `run` writes."""

    client: KubeClient
    on_written: Callable[[Pod], None] = lambda _pod: None
    _wanted: dict[str, _Wanted] = field(default_factory=dict)
    _event: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, pod: Pod, status: dict[str, Any]) -> None:
        """Want this status for the pod, in place of any still waiting."""
        wanted = self._wanted.setdefault(uid_of(pod), _Wanted(pod))
        wanted.pod, wanted.status = pod, status
        self._event.set()

    def delete(self, pod: Pod) -> None:
        """Want the pod's object gone, after its last status: nothing of it is left here."""
        self._wanted.setdefault(uid_of(pod), _Wanted(pod)).delete = True
        self._event.set()

    def pending(self, uid: str) -> dict[str, Any] | None:
        """The status still waiting to be written, if there is one."""
        wanted = self._wanted.get(uid)
        return wanted.status if wanted else None

    async def run(self) -> None:
        """Write what is wanted, for ever."""
        backoff = Backoff(first=0.1, cap=5.0)
        while True:
            await self._event.wait()
            self._event.clear()
            batch = list(self._wanted.items())[:AT_ONCE]
            results = await asyncio.gather(*(self._write(uid, wanted) for uid, wanted in batch))
            if all(results):
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next())
            if self._wanted:
                self._event.set()

    async def _write(self, uid: str, wanted: _Wanted) -> bool:
        status, delete, pod = wanted.status, wanted.delete, wanted.pod
        meta = pod["metadata"]
        try:
            if status is not None:
                body = {"metadata": {"uid": uid}, "status": status_patch(pod.get("status") or {}, status)}
                written = await self.client.patch(PODS, meta["name"], body, meta.get("namespace"), subresource="status")
                self.on_written(written)
            if delete:
                await self.client.delete(PODS, meta["name"], meta.get("namespace"), grace=0, uid=uid)
        except (NotFound, Conflict) as error:
            log.debug("%s: %s", name_of(pod), error)
        except (Denied, Invalid) as error:
            log.warning("%s: status not accepted: %s", name_of(pod), error)
        except Fault as error:
            log.debug("%s: %s; will be written later", name_of(pod), error)
            return False
        if wanted.status is status and wanted.delete == delete:
            self._wanted.pop(uid, None)
        return True


def status_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A JSON merge patch from one status to another (one level deep: lists and objects are replaced whole)."""
    changed = {key: value for key, value in new.items() if old.get(key) != value}
    return changed | {key: None for key in old if key not in new}
