"""What nobody owns any more: deletion by owner references, in all three ways, and pods left behind.

    Background   the owner is gone: its dependants are deleted (after asking the API whether it really is)
    Foreground   the owner waits, finalizer `foregroundDeletion`, until dependants that block it are gone
    Orphan       the owner waits, finalizer `orphan`, until it is taken off its dependants

Read next: `minik8s/controllers/world.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nodecore.kube.resource import NODES, PODS, Resource
from nodecore.kube.workload import Meta, Node, OwnerReference, Pod

from .ops import Delete, DeleteOrphan, Op, Patch, Plan, release
from .world import Collection

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
FINISHED_LIMIT = 12500

Object = tuple[Resource, Meta]


def plan_finalizer(owner: Object, dependants: Iterable[Object], waits: Callable[[Meta], bool]) -> Plan:
    """For an owner on its way out: see to its dependants, then let it go. `waits` says whether one has dependants itself."""
    resource, meta = owner
    children = list(dependants)
    finalizers = meta.finalizers or []
    if ORPHAN in finalizers:
        done, ops = ORPHAN, [release(kind, child, meta.uid) for kind, child in children]
        return Plan(tuple(ops)) if ops else Plan((_without(resource, meta, done),))
    blocking = [child for child in children if any(
        ref.uid == meta.uid and ref.block_owner_deletion for ref in child[1].owner_references or ())]
    deletes: list[Op] = [
        Delete(kind, child, f"goes with {resource.kind} {meta.name}", propagation="Foreground" if waits(child) else "Background")
        for kind, child in children if not child.deletion_timestamp]
    return Plan(tuple(deletes) if blocking else (*deletes, _without(resource, meta, FOREGROUND)))


def _without(resource: Resource, meta: Meta, finalizer: str) -> Patch:
    left = [each for each in meta.finalizers or () if each != finalizer]
    return Patch(resource, meta, {"metadata": {"finalizers": left or None}}, f"finalizer {finalizer} is done",
                 version=meta.resource_version)


class Garbage:
    """The controller of owner references: knows every object by uid and every owner's dependants."""

    name = "garbage"

    def __init__(self, collections: Mapping[Resource, Collection[Any]]) -> None:
        self.collections = collections
        self.resources: dict[str, Resource] = {}
        self.kinds: dict[tuple[str, str], Resource] = {}
        self.known: dict[str, str] = {}
        self.dependants: dict[str, set[str]] = {}
        self._mark: Callable[[str], None] = lambda _: None

    def listen(self, mark: Callable[[str], None]) -> None:
        """An object's change marks it; its end marks its dependants and its owners."""
        self._mark = mark
        for resource in list(self.collections):
            self.take(resource)

    def take(self, resource: Resource) -> None:
        """From now on judge this kind's objects as well, whose collection is there and still empty.

        Who has an owner nobody knows is looked at again: it may have been of this kind, and gone before we heard of either.
        """
        name = f"{resource.plural}.{resource.group}"
        self.resources[name] = self.kinds[resource.group, resource.kind] = resource
        self.collections[resource].listeners.append(lambda old, new: self._changed(name, old, new))
        for uid, children in self.dependants.items():
            for child in children if uid not in self.known else ():
                self._mark(child)

    def leave(self, resource: Resource) -> None:
        """The API has this kind no more: who it owned, owns or still waits for is not ours to judge."""
        name = f"{resource.plural}.{resource.group}"
        del self.resources[name], self.kinds[resource.group, resource.kind]
        self.known = {uid: key for uid, key in self.known.items() if not key.startswith(f"{name}|")}
        kept = {uid: {key for key in keys if not key.startswith(f"{name}|")} for uid, keys in self.dependants.items()}
        self.dependants = {uid: keys for uid, keys in kept.items() if keys}

    def _changed(self, name: str, old: Any, new: Any) -> None:
        mark = self._mark
        for item, present in ((old, False), (new, True)):
            if item is None:
                continue
            meta: Meta = item.metadata
            key = f"{name}|{meta.key}"
            if present:
                self.known[meta.uid] = key
            elif new is None or new.metadata.uid != meta.uid:
                self.known.pop(meta.uid, None)
                for child in self.dependants.get(meta.uid, ()):
                    mark(child)
            for ref in meta.owner_references or ():
                children = self.dependants.setdefault(ref.uid, set())
                (children.add if present else children.discard)(key)
                if not children:
                    del self.dependants[ref.uid]
                if not present and ref.uid in self.known:
                    mark(self.known[ref.uid])
            if present and (meta.owner_references or meta.finalizers):
                mark(key)

    def _find(self, key: str) -> Object | None:
        name, _, place = key.partition("|")
        resource = self.resources.get(name)
        item = self.collections[resource].get(place) if resource else None
        return (resource, item.metadata) if resource and item is not None else None

    def plan(self, key: str, now: float) -> Plan:
        """What becomes of one object."""
        found = self._find(key)
        if found is None:
            return Plan()
        resource, meta = found
        if meta.deletion_timestamp:
            if not {FOREGROUND, ORPHAN} & set(meta.finalizers or ()):
                return Plan()
            children = [self._find(child) for child in sorted(self.dependants.get(meta.uid, ()))]
            return plan_finalizer(found, [child for child in children if child], lambda child: child.uid in self.dependants)
        owners = [(self._owner_resource(ref), ref) for ref in meta.owner_references or ()]
        gone = [(kind, ref) for kind, ref in owners if kind is not None and ref.uid not in self.known]
        if not owners or len(gone) < len(owners):
            return Plan()
        return Plan((DeleteOrphan(resource, meta, tuple(gone)),))

    def _owner_resource(self, ref: OwnerReference) -> Resource | None:
        """The resource of an owner, None for a kind that is not ours to judge."""
        group = ref.api_version.rpartition("/")[0]
        return self.kinds.get((group, ref.kind))


def plan_pods(pods: Iterable[Pod], nodes: Iterable[str], limit: int = FINISHED_LIMIT) -> Plan:
    """Pods whose node is gone, pods that end without ever having had one, and the oldest of too many finished ones."""
    known, ops = set(nodes), list[Op]()
    everyone = list(pods)
    for pod in everyone:
        node = pod.spec.node_name
        if node and node not in known:
            ops.append(DeleteOrphan(PODS, pod.metadata, ((NODES, OwnerReference("v1", "Node", node)),), grace=0))
        elif not node and pod.metadata.deletion_timestamp:
            ops.append(Delete(PODS, pod.metadata, "never had a node", grace=0))
    finished = sorted((pod for pod in everyone if pod.finished and not pod.metadata.deletion_timestamp),
                      key=lambda pod: (pod.metadata.creation_timestamp or "", pod.metadata.key))
    ops += [Delete(PODS, pod.metadata, "too many finished pods", grace=0) for pod in finished[:max(0, len(finished) - limit)]]
    return Plan(tuple(ops))


class PodGarbage:
    """The controller around `plan_pods`; its one key stands for all pods."""

    name = "podgc"

    def __init__(self, pods: Collection[Pod], nodes: Collection[Node]) -> None:
        self.pods, self.nodes = pods, nodes

    def listen(self, mark: Callable[[str], None]) -> None:
        """A node that went, a pod that is over, or one whose node is not there."""
        def of_node(old: Node | None, new: Node | None) -> None:
            if new is None:
                mark("pods")

        def of_pod(old: Pod | None, new: Pod | None) -> None:
            if new is not None and (new.finished or new.metadata.deletion_timestamp or (
                    new.spec.node_name and self.nodes.get(new.spec.node_name) is None)):
                mark("pods")

        self.pods.listeners.append(of_pod)
        self.nodes.listeners.append(of_node)

    def plan(self, key: str, now: float) -> Plan:
        """Everything at once."""
        return plan_pods(self.pods, (node.metadata.name for node in self.nodes))
