"""The kinds nobody here plans for, yet which own and are owned: followed for the garbage collector as discovery names them,
and for the budgets of pods where they have a `scale`.

A kind that comes (a custom resource, say) is followed within PERIOD; one that goes is forgotten. Events own nothing and are
owned by nothing: they are left out, being the most numerous.
Must not know: what becomes of the objects. Read next: `minik8s/controllers/garbage.py`, `nodecore/kube/discovery.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from nodecore.errors import Fault
from nodecore.kube.client import KubeClient
from nodecore.kube.discovery import Served, served
from nodecore.kube.resource import Resource
from nodecore.kube.workload import Anything

from .garbage import Garbage
from .scales import Scales
from .world import Collection

log = logging.getLogger(__name__)
PERIOD = 30.0
NEEDED = frozenset({"list", "watch", "delete"})
LEFT_OUT = frozenset({"events"})


class OtherKinds:
    """Keeps a collection of each kind that `collections` does not have from the beginning."""

    def __init__(self, client: KubeClient, collections: dict[Resource, Collection[Any]], garbage: Garbage,
                 on_change: Callable[[], None], scales: Scales, *,
                 discover: Callable[[KubeClient], Awaitable[list[Served]]] = served) -> None:
        self.client, self.collections, self.garbage, self.scales, self.on_change = client, collections, garbage, scales, on_change
        self._discover = discover
        self._known = frozenset(collections)
        self._followed: dict[Resource, asyncio.Task[None]] = {}

    async def run(self, period: float = PERIOD) -> None:
        """Look what there is now and then, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    found = {each.resource: each.scaled for each in await self._discover(self.client) if each.verbs >= NEEDED}
                except Fault as error:
                    log.debug("discovery: %s", error)
                else:
                    self._become({each: scaled for each, scaled in found.items()
                                  if each not in self._known and each.plural not in LEFT_OUT}, group)
                await asyncio.sleep(period)

    def _become(self, wanted: dict[Resource, bool], group: asyncio.TaskGroup) -> None:
        for resource in self._followed.keys() - wanted.keys():
            self._followed.pop(resource).cancel()
            self.garbage.leave(resource)
            self.scales.leave(resource)
            del self.collections[resource]
        for resource in sorted(wanted.keys() - self._followed.keys(), key=lambda each: (each.group, each.plural)):
            collection = self.collections[resource] = Collection(resource, Anything)
            self.garbage.take(resource)
            if wanted[resource]:
                self.scales.take(resource, collection)
            running = collection.follow(self.client, self.on_change).run()
            self._followed[resource] = group.create_task(running, name=f"watch {resource.plural}")
