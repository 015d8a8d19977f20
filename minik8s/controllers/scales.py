"""How many pods an object of a kind nobody here plans for is set to: what its `scale` subresource says.

    find(namespace, owner)    the number, as of the version of the object that its collection has
    run()                     asks the API for the numbers that were looked for and not known, and tells the listeners

A number is asked for once for each version of its object, and only for objects that somebody looks for.
Must not know: budgets. Read next: `minik8s/controllers/disruption.py`, `minik8s/controllers/kinds.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from nodecore.errors import Fault, NotFound
from nodecore.kube.client import KubeClient
from nodecore.kube.resource import Resource
from nodecore.kube.workload import Anything, OwnerReference

from .disruption import Scaled, ScaledSpec, Unknown, Waiting
from .world import Collection

log = logging.getLogger(__name__)
PAUSE = 1.0
Key = tuple[Resource, str]


class Scales:
    """The numbers of all kinds with a `scale`; `listeners` hear of a namespace where one became known or changed."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._kinds: dict[tuple[str, str], tuple[Resource, Collection[Anything]]] = {}
        self._known: dict[Key, tuple[str, Scaled | None]] = {}
        self._asked: dict[Key, None] = {}
        self._wanted = asyncio.Event()
        self.listeners: list[Callable[[str | None], None]] = []

    def take(self, resource: Resource, collection: Collection[Anything]) -> None:
        """A kind with a `scale` is there."""
        def changed(old: Anything | None, new: Anything | None) -> None:
            meta = (new or old or Anything()).metadata
            if (resource, meta.key) in self._known:
                self._tell(meta.namespace)

        self._kinds[resource.group, resource.kind] = (resource, collection)
        collection.listeners.append(changed)
        self._tell(None)

    def leave(self, resource: Resource) -> None:
        """It is no more."""
        self._kinds.pop((resource.group, resource.kind), None)
        for key in [key for key in self._known if key[0] == resource]:
            del self._known[key]

    def _tell(self, namespace: str | None) -> None:
        for listener in self.listeners:
            listener(namespace)

    def find(self, namespace: str, owner: OwnerReference) -> Scaled | None:
        """What an owner is set to; `None` if it is gone, `Unknown` if its kind has no scale, `Waiting` while it is asked for."""
        found = self._kinds.get((owner.api_version.rpartition("/")[0], owner.kind))
        if found is None:
            raise Unknown(f"{owner.kind} {owner.name} has no scale")
        resource, collection = found
        key = (resource, f"{namespace}/{owner.name}" if resource.namespaced else owner.name)
        item = collection.get(key[1])
        version, scaled = self._known.get(key, ("", None))
        if item is None and collection.synced:
            self._known.pop(key, None)
            return None
        if item is None or item.metadata.resource_version != version:
            self._asked[key] = None
            self._wanted.set()
            raise Waiting
        return scaled

    async def run(self) -> None:
        """Ask, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            for key in list(self._asked):
                del self._asked[key]
                try:
                    await self._ask(key)
                except Fault as fault:
                    log.debug("scale of %s %s: %s", key[0].kind, key[1], fault)
                    await asyncio.sleep(PAUSE)
                self._tell(key[1].rpartition("/")[0] or None)

    async def _ask(self, key: Key) -> None:
        resource, path = key
        namespace, _, name = path.rpartition("/")
        found = self._kinds.get((resource.group, resource.kind))
        item = found[1].get(path) if found else None
        scaled: Scaled | None = None
        with suppress(NotFound):
            scaled = await self._client.get(resource, name, namespace or None, into=Scaled, subresource="scale")
        if scaled is not None and scaled.spec.replicas is None:  # a zero is left out
            scaled = Scaled(scaled.metadata, ScaledSpec(0))
        if item is not None:
            self._known[key] = (item.metadata.resource_version, scaled)
