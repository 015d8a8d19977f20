"""Who may do what, now: the compiled roles and the graph of the nodes' pods, kept up with the watch caches.

Nothing runs in the background: each question first looks whether the caches moved. Answers by RBAC are remembered until a
role or binding changes, so that a question asked before costs a look into a dictionary.
Must not know: HTTP. Read next: `rbac.py`, `nodes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from minik8s.apiserver.auth.authorize import MASTERS, Attributes, User
from minik8s.apiserver.auth.nodes import Graph, decide
from minik8s.apiserver.auth.rbac import Index, read_binding, read_role
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.storage.watchcache import CacheWatch, WatchCache
from nodecore.errors import Expired

T = TypeVar("T")
Object = dict[str, Any]
Read = tuple[int, Any]
Question = tuple[User | str, ...]
KEPT = 8000
ROLE_KINDS = ("clusterroles", "roles", "clusterrolebindings", "rolebindings")


class Access:
    """Answers whether a user may do something."""

    def __init__(self, cluster: Cluster) -> None:
        self._sources = [cluster.cache(BY_PLURAL[name]) for name in ROLE_KINDS]
        self._nodes = _Nodes(cluster.cache(BY_PLURAL["pods"]))
        self._index, self._stand = Index(), (-1, -1, -1, -1)
        self._read: dict[str, Read] = {}
        self._known: dict[Question, str] = {}
        self._whole = False

    @property
    def synced(self) -> bool:
        """Whether all roles and bindings are known."""
        return all(cache.synced for cache in self._sources)

    async def ready(self) -> None:
        """Wait until they are."""
        for cache in self._sources:
            await cache.ready()

    @property
    def index(self) -> Index:
        """The roles and bindings as they are now."""
        one, two, three, four = self._sources
        stand = (one.window.end, two.window.end, three.window.end, four.window.end)
        if stand != self._stand or not self._whole:
            before, self._read, self._whole = self._read, {}, self.synced
            self._index = Index(self._objects(self._sources[:2], before, read_role),
                                self._objects(self._sources[2:], before, read_binding))
            self._stand, self._known = stand, {}
        return self._index

    def _objects(self, caches: list[WatchCache], before: Mapping[str, Read], read: Callable[[Object], T]) -> Iterator[T]:
        """What the objects of some caches say; one that did not change is not read anew."""
        for entry in (entry for cache in caches for entry in cache.snapshot().entries):
            known = before.get(entry.key)
            if known is None or known[0] != entry.revision:
                known = (entry.revision, read(entry.object))
            self._read[entry.key] = known
            yield known[1]

    def allows(self, user: User, asked: Attributes) -> str:
        """Why a user may do this; empty when nothing allows it."""
        if MASTERS in user.groups:
            return "the group system:masters may do everything"
        index = self.index
        if user.node and (reason := decide(self._nodes.graph, user.node, asked)):
            return reason
        verb, group, resource, namespace, name, path, _ = asked
        question = (user, verb, group, resource, namespace, path)
        found = self._known.get(question)
        if found is None:
            found = self._keep(question, index.allows(user, Attributes(verb, group, resource, namespace, "", path)))
        if found or not name:
            return found
        named = (*question, name)
        found = self._known.get(named)
        return self._keep(named, index.allows(user, asked)) if found is None else found

    def _keep(self, question: Question, found: str) -> str:
        if len(self._known) >= KEPT:
            self._known.clear()
        self._known[question] = found
        return found


class _Nodes:
    """The graph of the nodes' pods."""

    def __init__(self, pods: WatchCache) -> None:
        self._pods = pods
        self._graph = Graph()
        self._watch: CacheWatch | None = None

    @property
    def graph(self) -> Graph:
        """The graph as the cache of pods stands now."""
        if not self._pods.synced:
            return self._graph
        try:
            if self._watch is None:
                raise Expired("not read yet")
            for event in self._watch.pending():
                key = self._short(event.entry.key)
                if event.type == "DELETED":
                    self._graph.drop(key)
                else:
                    self._graph.put(key, event.entry.object)
        except Expired:
            self._fill()
        return self._graph

    def _fill(self) -> None:
        self._graph = Graph()
        found = self._pods.snapshot()
        self._watch = self._pods.watch(found.revision)
        for entry in found.entries:
            self._graph.put(self._short(entry.key), entry.object)

    def _short(self, key: str) -> str:
        return key.removeprefix(self._pods.prefix)
