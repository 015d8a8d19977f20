"""A definition's schema as shapes: what merging, applying, pruning and finding unknown fields go by, as for every other kind.

    learn(shapes, gvk, schema)     from now on the tables know the kind
    forget(shapes, gvk)

Must not know: HTTP, what values mean (`kinds/structural.py`). Read next: `shapes.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.schema.shapes import GVK, Field, Shape, Shapes

Object = dict[str, Any]
META = Field("meta.v1.ObjectMeta")
HEAD = {"apiVersion": Field("string"), "kind": Field("string"), "metadata": META}
PRESERVE, EMBEDDED = "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"


def learn(shapes: Shapes, gvk: GVK, schema: Object) -> None:
    """Add a kind, in place of what it was before."""
    forget(shapes, gvk)
    name = "custom:" + "/".join(gvk)
    shapes.types.update(dict(_Reader(name).read(schema)))
    shapes.kinds["/".join(gvk)] = name


def forget(shapes: Shapes, gvk: GVK) -> None:
    """Take a kind and its shapes away."""
    name = shapes.kinds.get("/".join(gvk), "")
    if name.startswith("custom:"):
        del shapes.kinds["/".join(gvk)]
        for key in [key for key in shapes.types if key == name or key.startswith(name + ".")]:
            del shapes.types[key]


class _Reader:
    """Names each object type by its path, so that the types of one kind are told by their beginning."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.types: dict[str, Shape] = {}

    def read(self, schema: Object) -> dict[str, Shape]:
        """All types of a kind."""
        self._object(schema, self._name, HEAD)
        return self.types

    def _object(self, schema: Object, name: str, head: dict[str, Field]) -> str:
        fields = {key: self._field(inner, f"{name}.{key}") for key, inner in (schema.get("properties") or {}).items()}
        atomic = schema.get("x-kubernetes-map-type") == "atomic"
        self.types[name] = Shape({**fields, **head}, (), bool(schema.get(PRESERVE)), atomic)
        return name

    def _field(self, schema: Object, name: str) -> Field:
        kind = schema.get("type", "")
        form = schema.get("x-kubernetes-list-type", "") or schema.get("x-kubernetes-map-type", "")
        keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
        if schema.get("x-kubernetes-int-or-string"):
            return Field("intorstring")
        if kind == "array":
            inner = schema.get("items")
            item = self._field(inner, f"{name}.[]") if isinstance(inner, dict) else Field("any")
            return Field("list", item, list_type=form, list_keys=keys)
        if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
            return Field("map", self._field(schema["additionalProperties"], f"{name}.*"), list_type=form)
        if kind == "object" and (schema.get("properties") or schema.get(EMBEDDED) or not _free(schema)):
            return Field(self._object(schema, name, HEAD if schema.get(EMBEDDED) else {}), list_type=form)
        return Field({"integer": "int64", "boolean": "boolean", "number": "number", "string": "string"}.get(kind, "any"))


def _free(schema: Object) -> bool:
    return bool(schema.get(PRESERVE) or schema.get("additionalProperties"))
