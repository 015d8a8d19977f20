"""JSON schema definitions -> the compact tables of `shapes.py`. Pure; used by the builder only.

Read next: `shapes.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from minik8s.apiserver.schema.definitions import Definition, by_kind, reach, target
from minik8s.apiserver.schema.shapes import Field, Shape, Shapes

SPECIAL = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "intorstring",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "time",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "time",
}
STRINGS = {"byte": "bytes", "date-time": "time"}


def compact(definitions: dict[str, Definition], kinds: Iterable[tuple[str, str, str]]) -> Shapes:
    """The tables of the kinds and all they reach; a kind the definitions lack is left out."""
    known = by_kind(definitions)
    roots = {"/".join(kind): known[kind] for kind in kinds if kind in known}
    types = {
        short(name): _shape(definitions, definitions[name])
        for name in reach(definitions, roots.values())
        if "properties" in definitions[name]
    }
    return Shapes({kind: short(name) for kind, name in roots.items()}, types)


def short(name: str) -> str:
    """`io.k8s.api.core.v1.PodSpec` -> `core.v1.PodSpec`."""
    return ".".join(name.split(".")[-3:])


def _shape(definitions: dict[str, Definition], definition: Definition) -> Shape:
    fields = {name: _field(definitions, schema) for name, schema in definition["properties"].items()}
    return Shape(fields, tuple(definition.get("required", ())), atomic=definition.get("x-kubernetes-map-type") == "atomic")


def _field(definitions: dict[str, Definition], schema: Definition) -> Field:
    kind = _type(definitions, schema)
    inner = schema.get("items") if kind == "list" else schema.get("additionalProperties") if kind == "map" else None
    return Field(
        kind,
        _field(definitions, inner) if inner else None,
        schema.get("x-kubernetes-patch-merge-key", ""),
        schema.get("x-kubernetes-patch-strategy", ""),
        schema.get("x-kubernetes-list-type", "") or schema.get("x-kubernetes-map-type", ""),
        tuple(schema.get("x-kubernetes-list-map-keys", ())),
    )


def _type(definitions: dict[str, Definition], schema: Definition) -> str:
    name = target(schema)
    if name:
        if name in SPECIAL:
            return SPECIAL[name]
        return short(name) if "properties" in definitions[name] else _type(definitions, definitions[name])
    kind, form = schema.get("type", ""), schema.get("format", "")
    if kind == "array":
        return "list"
    if kind == "object":
        return "map" if "additionalProperties" in schema else "any"
    if kind == "integer":
        return form if form in ("int32", "int64") else "int64"
    if kind == "string":
        return str(STRINGS.get(form, "string"))
    return kind if kind in ("boolean", "number") else "any"
