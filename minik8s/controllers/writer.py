"""The one place that writes: carries out ops through the API and shows the answers to the world's collections.

A create whose answer was lost may have happened: its name is remembered and looked up before anything else is planned.

Read next: `minik8s/controllers/ops.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from nodecore.errors import Conflict, Fault, NotFound, Unreachable
from nodecore.kube.client import KubeClient
from nodecore.kube.discovery import served
from nodecore.kube.events import Recorder
from nodecore.kube.resource import NAMESPACES, Resource

from .ops import Create, Delete, DeleteOrphan, Finalize, Op, Patch, Told
from .world import Collection

AT_ONCE = 16
EMPTIED = frozenset({"list", "delete"})


class Writer:
    """Writes ops; `collections` are those to show the answers to."""

    def __init__(self, client: KubeClient, collections: Mapping[Resource, Collection[Any]], recorder: Recorder) -> None:
        self.client, self.collections, self.recorder = client, collections, recorder
        self._uncertain: set[tuple[Resource, str, str]] = set()
        self._room = asyncio.Semaphore(AT_ONCE)

    async def settle(self) -> None:
        """Find out about the creates whose answers were lost; raises while the API stays away."""
        for entry in list(self._uncertain):
            resource, namespace, name = entry
            try:
                found = await self.client.get(resource, name, namespace or None)
            except NotFound:
                pass
            else:
                self._show(resource, found)
            self._uncertain.discard(entry)

    async def write(self, ops: Sequence[Op]) -> None:
        """Write the ops of one key in order, neighbours of one sort at once; stops at the first sort that fails."""
        for _, group in itertools.groupby(ops, key=lambda op: (type(op), getattr(op, "resource", None))):
            results = await asyncio.gather(*(self._one(op) for op in group), return_exceptions=True)
            failed = [result for result in results if isinstance(result, Exception)]
            if failed:
                raise failed[0] if len(failed) == 1 else ExceptionGroup("writes failed", failed)

    async def _one(self, op: Op) -> None:
        async with self._room:
            match op:
                case Told():
                    self._tell(op)
                case Create():
                    await self._create(op)
                case Patch():
                    await self._patch(op)
                case Delete():
                    await self._delete(op)
                case DeleteOrphan():
                    await self._delete_orphan(op)
                case Finalize():
                    await self._finalize(op)

    def _show(self, resource: Resource, answer: Any) -> None:
        if resource in self.collections:
            self.collections[resource].wrote(answer)

    def _tell(self, told: Told | None) -> None:
        if told:
            self.recorder.emit(told.involved, told.type, told.reason, told.message)

    async def _create(self, op: Create) -> None:
        meta = op.body["metadata"]
        namespace = meta.get("namespace", "")
        try:
            made = await self.client.create(op.resource, op.body, namespace or None)
        except Unreachable:
            self._uncertain.add((op.resource, namespace, meta["name"]))
            raise
        except Fault as error:
            if op.tell:
                self.recorder.emit(op.tell.involved, "Warning", "FailedCreate", f"Error creating: {error}")
            raise
        self._show(op.resource, made)
        self._tell(op.tell)

    async def _patch(self, op: Patch) -> None:
        body = op.body
        if op.version:
            body = {**body, "metadata": {**body.get("metadata", {}), "resourceVersion": op.version}}
        changed = await self.client.patch(op.resource, op.meta.name, body, op.meta.namespace or None, kind=op.kind,
                                          subresource=op.subresource)
        self._show(op.resource, changed)
        self._tell(op.tell)

    async def _delete(self, op: Delete | DeleteOrphan) -> None:
        propagation = op.propagation if isinstance(op, Delete) else "Background"
        try:
            await self.client.delete(op.resource, op.meta.name, op.meta.namespace or None, grace=op.grace,
                                     propagation=propagation, uid=op.meta.uid)
        except NotFound:
            return
        if op.resource in self.collections:
            self.collections[op.resource].doomed(op.meta)
        self._tell(op.tell if isinstance(op, Delete) else None)

    async def _delete_orphan(self, op: DeleteOrphan) -> None:
        for resource, ref in op.owners:
            namespace = op.meta.namespace if resource.namespaced else None
            try:
                owner = await self.client.get(resource, ref.name, namespace)
            except NotFound:
                continue
            if not ref.uid or owner["metadata"].get("uid") == ref.uid:
                return
        await self._delete(op)

    async def _finalize(self, op: Finalize) -> None:
        kinds = [each.resource for each in await served(self.client) if each.resource.namespaced and each.verbs >= EMPTIED]
        for resource in kinds:
            found = await self.client.list(resource, op.meta.name)
            for item in found.items:
                if not item["metadata"].get("deletionTimestamp"):
                    await self._forgiving_delete(resource, item["metadata"])
        for resource in kinds:
            if (await self.client.list(resource, op.meta.name)).items:
                raise Conflict(f"namespace {op.meta.name} still holds {resource.plural}")
        body = {**op.body, "metadata": {"name": op.meta.name, "resourceVersion": op.meta.resource_version}}
        await self.client.replace(NAMESPACES, body, subresource="finalize")

    async def _forgiving_delete(self, resource: Resource, meta: Mapping[str, Any]) -> None:
        try:
            await self.client.delete(resource, meta["name"], meta.get("namespace"))
        except NotFound:
            return
