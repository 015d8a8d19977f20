"""Custom kinds, live: each CustomResourceDefinition that comes is judged, established and served; one that goes is emptied first.

    a definition written -> its cache tells us -> names accepted? status written -> the cache tells us again -> served

Each API server does this for itself; who writes the status first is all the same. Read next: `kinds/definitions.py`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from minik8s.apiserver import schema
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds import definitions
from minik8s.apiserver.kinds.catalogue import BY_PLURAL, Kind
from minik8s.apiserver.kinds.initial import CLEANUP
from minik8s.apiserver.request.call import now
from minik8s.apiserver.request.status import Refused
from minik8s.apiserver.verbs.writing import Writer
from nodecore.errors import Expired, Fault

log = logging.getLogger(__name__)
Object = dict[str, Any]
DEFINITIONS = BY_PLURAL["customresourcedefinitions"]
RETRY = 1.0


class Definitions:
    """Keeps the registry as the definitions are."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._writer = cluster, Writer(cluster)

    async def run(self) -> None:
        """Follow the definitions for ever."""
        cache = self._cluster.cache(DEFINITIONS)
        await cache.ready()
        while True:
            try:
                snapshot = cache.snapshot()
                waiting = await self._all([entry.object for entry in snapshot.entries])
                self._cluster.settled.set()
                async with asyncio.timeout(RETRY if waiting else None):
                    await cache.watch(snapshot.revision).batch()
            except (Expired, TimeoutError):
                continue
            except Fault as fault:
                log.warning("custom resource definitions: %s", fault)
                await asyncio.sleep(RETRY)

    async def _all(self, objects: list[Object]) -> bool:
        """Make the registry fit; whether something is left to wait for."""
        for name in self._cluster.registry.custom_names() - {obj["metadata"]["name"] for obj in objects}:
            self._serve(name, ())
        waiting = False
        for obj in objects:
            name = obj["metadata"]["name"]
            try:
                waiting |= await self._one(name, obj, objects)
            except (KeyError, StopIteration, TypeError, ValueError):
                log.error("%s is no definition this server understands: it is left out", name)
            except Refused as refused:
                log.debug("%s: %s", name, refused)
                waiting = waiting or refused.code != 404
        return waiting

    async def _one(self, name: str, obj: Object, objects: list[Object]) -> bool:
        wanted = definitions.settle(obj, definitions.names_taken(obj, objects), now())
        if wanted != obj:
            await self._write_status(name, wanted["status"])
        self._serve(name, definitions.kinds_of(obj) if definitions.is_(obj, "Established") else ())
        if obj["metadata"].get("deletionTimestamp") and CLEANUP in obj["metadata"].get("finalizers", []):
            return await self._clean_up(name, obj)
        return False

    def _serve(self, name: str, kinds: tuple[Kind, ...]) -> None:
        registry = self._cluster.registry
        before = registry.custom(name)
        if not registry.put(name, kinds):
            return
        for kind in before:
            if kind.place not in {new.place for new in kinds}:
                schema.forget(kind.gvk)
                self._cluster.forget(kind)
        for kind in kinds:
            assert kind.custom is not None
            schema.learn(kind.gvk, kind.custom.schema)
        log.info("%s: %s", name, ", ".join(f"serving {kind.resource.version}" for kind in kinds) or "no longer served")

    async def _write_status(self, name: str, status: Object) -> None:
        def alter(obj: Object) -> Object:
            return {**obj, "status": status}

        await self._writer.alter(DEFINITIONS, "", name, alter)

    async def _clean_up(self, name: str, obj: Object) -> bool:
        """Delete the objects of a definition that goes; once none is left, let it go. Whether some are left."""
        kind = definitions.storage_of(obj)
        left = (await self._cluster.storage.list(kind.prefix)).objects
        for item in left:
            meta = item["metadata"]
            if not meta.get("deletionTimestamp"):
                await self._writer.delete(kind, meta.get("namespace", ""), meta["name"], {})
        if left:
            return True

        def release(definition: Object) -> Object | None:
            meta = definition["metadata"]
            meta["finalizers"] = [each for each in meta.get("finalizers", []) if each != CLEANUP]
            return definition if meta["finalizers"] else None

        await self._writer.alter(DEFINITIONS, "", name, release)
        return False
