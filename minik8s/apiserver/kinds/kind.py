"""What is known of one served kind: its names, verbs, subresources, place in etcd, selectable fields.

Values only. Must not know: which kinds there are. Read next: `catalogue.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from minik8s.apiserver.kinds.custom import Custom
from nodecore.kube.resource import Resource

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Sub:
    """A subresource: the kind it speaks, where that is not the parent's, and its verbs."""

    name: str
    verbs: tuple[str, ...]
    kind: str = ""
    group: str = ""
    version: str = ""


STATUS = Sub("status", ("get", "patch", "update"))
SCALE = Sub("scale", ("get", "patch", "update"), "Scale", "autoscaling", "v1")


@dataclass(frozen=True, slots=True)
class Kind:
    """One served kind; `fields` are the field selectors beside metadata.name and metadata.namespace.

    Objects of a `passing` kind have a limited life. Those of a `counted` one count the generations of their spec.
    `kept` is the kind an object is stored as where that is not this one, as `converting.py` turns it.
    `warning` is told to everybody who asks for such objects, `unheeded` to those who write one.
    """

    resource: Resource
    singular: str
    prefix: str
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[Sub, ...] = ()
    fields: tuple[str, ...] = ()
    passing: bool = False
    counted: bool = False
    kept: Kind | None = None
    warning: str = ""
    unheeded: str = ""
    verbs: tuple[str, ...] = VERBS
    custom: Custom | None = field(default=None, hash=False)

    @property
    def place(self) -> tuple[str, str, str]:
        """Group, version and plural, as a URL names it."""
        return (self.resource.group, self.resource.version, self.resource.plural)

    @property
    def own(self) -> str:
        """The name of one of the API's own kinds, which have rules by it; empty for a custom one, whatever it is called."""
        return "" if self.custom else self.resource.kind

    @property
    def stored(self) -> Kind:
        """The kind its objects are stored as."""
        return self.kept or self

    @property
    def has_status(self) -> bool:
        """Whether `status` is written through its own subresource."""
        return STATUS in self.subresources

    @property
    def gvk(self) -> tuple[str, str, str]:
        """Group, version and kind."""
        return (self.resource.group, self.resource.version, self.resource.kind)

    def sub(self, name: str) -> Sub | None:
        """The subresource of that name."""
        return next((sub for sub in self.subresources if sub.name == name), None)

    def key(self, namespace: str, name: str) -> str:
        """Where an object is in etcd."""
        return f"{self.prefix}{namespace}/{name}" if self.resource.namespaced else f"{self.prefix}{name}"

    def folder(self, namespace: str = "") -> str:
        """What the keys of all objects (of a namespace) begin with."""
        return f"{self.prefix}{namespace}/" if namespace and self.resource.namespaced else self.prefix


@dataclass(frozen=True, slots=True)
class Review:
    """A question put to the API with POST: answered, never stored."""

    resource: Resource
    singular: str
