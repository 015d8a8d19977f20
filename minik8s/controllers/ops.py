"""The API writes a controller can ask for, as values that say what they are.

Pure. Read next: `minik8s/controllers/writer.py`, the one place that carries them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodecore.kube.client import MERGE
from nodecore.kube.resource import Resource
from nodecore.kube.workload import Meta, OwnerReference

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """An event to record about `involved` once the write it belongs to has succeeded, or instead of a write."""

    involved: Mapping[str, str]
    reason: str
    message: str
    type: str = "Normal"

    def describe(self) -> str:
        """What will be told."""
        return f"event {self.reason}: {self.message}"


@dataclass(frozen=True, slots=True)
class Create:
    """Make an object."""

    resource: Resource
    body: Raw
    tell: Told | None = None

    def describe(self) -> str:
        """Which one."""
        return f"create {self.resource.kind} {self.body['metadata'].get('namespace', '')}/{self.body['metadata']['name']}"


@dataclass(frozen=True, slots=True)
class Patch:
    """Change part of an object; with `version`, only if nobody has changed it since."""

    resource: Resource
    meta: Meta
    body: Raw
    why: str
    subresource: str | None = None
    kind: str = MERGE
    version: str = ""
    tell: Told | None = None

    def describe(self) -> str:
        """Which one, and to what end."""
        part = f"/{self.subresource}" if self.subresource else ""
        return f"patch {self.resource.kind} {self.meta.key}{part}: {self.why}"


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove this very object (by uid), not a successor of the same name."""

    resource: Resource
    meta: Meta
    why: str
    grace: int | None = None
    propagation: str = ""
    tell: Told | None = None

    def describe(self) -> str:
        """Which one, and why."""
        return f"delete {self.resource.kind} {self.meta.key}: {self.why}"


@dataclass(frozen=True, slots=True)
class DeleteOrphan:
    """Remove an object if none of these owners exists: asked of the API itself, as collections lag behind one another.

    An owner without a uid is any object of that name.
    """

    resource: Resource
    meta: Meta
    owners: tuple[tuple[Resource, OwnerReference], ...]
    grace: int | None = None

    def describe(self) -> str:
        """Which one, and whose it was."""
        names = ", ".join(f"{ref.kind} {ref.name}" for _, ref in self.owners)
        return f"delete {self.resource.kind} {self.meta.key} if its owner is gone: {names}"


@dataclass(frozen=True, slots=True)
class Finalize:
    """Empty a namespace of every kind the API serves, and hand it back once nothing is left: asked of the API itself."""

    meta: Meta
    body: Raw

    def describe(self) -> str:
        """Which one."""
        return f"finalize Namespace {self.meta.name}"


Op = Create | Patch | Delete | DeleteOrphan | Finalize | Told


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write for one key, in order, and in how many seconds to look again though nothing changes."""

    ops: tuple[Op, ...] = ()
    again: float | None = None


def soonest(*times: float | None) -> float | None:
    """The smallest of the waits that are there."""
    return min((each for each in times if each is not None), default=None)


def owner_reference(resource: Resource, meta: Meta) -> Raw:
    """The reference by which an object names its controller."""
    return {"apiVersion": resource.api_version, "kind": resource.kind, "name": meta.name, "uid": meta.uid,
            "controller": True, "blockOwnerDeletion": True}


def involved(resource: Resource, meta: Meta) -> dict[str, str]:
    """The reference by which an event names its object."""
    return {"apiVersion": resource.api_version, "kind": resource.kind, "namespace": meta.namespace, "name": meta.name,
            "uid": meta.uid}


def adopt(resource: Resource, child: Meta, owner: Resource, parent: Meta) -> Patch:
    """Make `parent` the controller of an object that has none."""
    refs = [*raw_references(child), owner_reference(owner, parent)]
    return Patch(resource, child, {"metadata": {"ownerReferences": refs}}, f"adopted by {owner.kind} {parent.name}",
                 version=child.resource_version)


def release(resource: Resource, child: Meta, uid: str) -> Patch:
    """Take one owner off an object."""
    refs = [ref for ref in raw_references(child) if ref["uid"] != uid]
    return Patch(resource, child, {"metadata": {"ownerReferences": refs or None}}, "released by its owner",
                 version=child.resource_version)


def raw_references(meta: Meta) -> list[Raw]:
    """The owner references as the API writes them."""
    found = []
    for ref in meta.owner_references or ():
        raw: Raw = {"apiVersion": ref.api_version, "kind": ref.kind, "name": ref.name, "uid": ref.uid}
        if ref.controller is not None:
            raw["controller"] = ref.controller
        if ref.block_owner_deletion is not None:
            raw["blockOwnerDeletion"] = ref.block_owner_deletion
        found.append(raw)
    return found
