"""What an admission plugin is given: a write, by whom, of what; and the shape every plugin has. Values only.

Must not know: plugins, HTTP. Read next: `chain.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from minik8s.apiserver.auth.authorize import User
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL, Kind
from minik8s.apiserver.request.status import Refused, named

Object = dict[str, Any]
CREATE, UPDATE, DELETE = "CREATE", "UPDATE", "DELETE"


@dataclass(frozen=True, slots=True)
class Asked:
    """A write: `obj` as it is to be (a plugin's `shape` changes it in place), `old` as it was."""

    kind: Kind
    operation: str
    user: User
    namespace: str
    name: str
    sub: str
    obj: Object
    old: Object
    dry: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def plural(self) -> str:
        """The resource as a rule names it: with its subresource, without its group."""
        plural = self.kind.resource.plural
        return f"{plural}/{self.sub}" if self.sub else plural

    def refuse(self, why: str) -> Refused:
        """The refusal of this write."""
        resource = self.kind.resource
        name = self.name or str(self.obj.get("metadata", {}).get("generateName", ""))
        details = {key: value for key, value in (("name", name), ("group", resource.group), ("kind", resource.plural)) if value}
        return Refused(403, f'{named(resource.plural, resource.group)} "{name}" is forbidden: {why}', details=details)


class Plugin(Protocol):
    """One reason to change or refuse writes; `needs` are the plurals whose caches it looks into."""

    name: str
    needs: tuple[str, ...]

    def concerns(self, asked: Asked) -> bool:
        """Whether it has anything to do with such a write."""
        ...

    def shape(self, asked: Asked) -> None:
        """Complete an object that is about to be created."""
        ...

    def check(self, asked: Asked) -> None:
        """Raise Refused for what may not be."""
        ...


def found(cluster: Cluster, plural: str, namespace: str, name: str) -> Object | None:
    """An object as the cache has it: shared, not to be changed."""
    kind = BY_PLURAL[plural]
    entry = cluster.cache(kind).get(kind.key(namespace, name))
    return entry.object if entry else None


def every(cluster: Cluster, plural: str, namespace: str = "") -> list[Object]:
    """All objects of a kind, or those of a namespace, as the cache has them."""
    kind = BY_PLURAL[plural]
    cache = cluster.cache(kind)
    return [entry.object for entry in cache.snapshot(kind.folder(namespace)).entries] if len(cache) else []
