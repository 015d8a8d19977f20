"""What the objects of a kind are made of, as ownership sees them: single values, structs, maps, lists with keys, sets.

A Form is made from the tables of `schema/shapes.py`, or from the OpenAPI schema of a custom resource. Lists are atomic (one
value, owned whole) unless their list type, or the strategy of strategic merge patches, says otherwise; so are structs and maps
of type `atomic`. What the server itself writes (name, uid, resourceVersion ...) is owned by nobody: its form is SKIP.

Pure. Must not know: objects, HTTP. Read next: `change.py`, which walks along forms.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.schema.shapes import Field, Shape, Shapes

ONE, STRUCT, MAP, LIST, SET, ANY, NOBODY = range(7)
UNOWNED = ("name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields",
           "resourceVersion")
KEY_DEFAULTS = {"protocol": "TCP"}
OBJECT_META = "meta.v1.ObjectMeta"
Schema = dict[str, Any]


class Form:
    """One sort of value; `fields` of a struct, `item` of a map or list, `keys` (sorted) of a list."""

    __slots__ = ("fields", "item", "keys", "kind", "open")

    def __init__(self, kind: int, item: Form | None = None, keys: tuple[str, ...] = (), *, open_: bool = False) -> None:
        self.kind, self.keys, self.open = kind, keys, open_
        self.fields: dict[str, Form] = {}
        self.item: Form = item if item is not None else self

    def field(self, name: str) -> Form:
        """The form of a struct's field, of a map's value; ANYTHING for one the struct does not know."""
        if self.kind == STRUCT:
            return self.fields.get(name, ANYTHING)
        return self.item


VALUE, ANYTHING, SKIP = Form(ONE), Form(ANY), Form(NOBODY)


class Forms:
    """The forms of one set of shapes; each is made when first asked for."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._types: dict[str, Form] = {}
        self._roots: dict[tuple[tuple[str, str, str], tuple[str, ...]], Form] = {}

    def of_kind(self, gvk: tuple[str, str, str], ignored: tuple[str, ...] = ()) -> Form:
        """The form of a kind's objects but for top-level fields that this writer does not write."""
        found = self._roots.get((gvk, ignored))
        if found is None:
            shape = self._shapes.of_kind(gvk)
            found = self._root(self._struct(shape) if shape else Form(STRUCT, open_=True), ignored)
            self._roots[gvk, ignored] = found
        return found

    def of_schema(self, schema: Schema, ignored: tuple[str, ...] = ()) -> Form:
        """The form of a custom kind, from its version's structural schema."""
        made = of_openapi(schema)
        whole = Form(STRUCT, open_=made.open or made.kind != STRUCT)
        whole.fields = dict(made.fields)
        return self._root(whole, ignored)

    def _root(self, whole: Form, ignored: tuple[str, ...]) -> Form:
        known = self._shapes.types.get(OBJECT_META)
        meta = Form(STRUCT)
        meta.fields = {**(self._struct(known).fields if known else {}), **dict.fromkeys(UNOWNED, SKIP)}
        root = Form(STRUCT, open_=whole.open)
        root.fields = {**whole.fields, "apiVersion": SKIP, "kind": SKIP, "metadata": meta, **dict.fromkeys(ignored, SKIP)}
        return root

    def _struct(self, shape: Shape) -> Form:
        made = Form(STRUCT, open_=shape.open_)
        made.fields = {name: self._field(field) for name, field in shape.fields.items()}
        return made

    def _named(self, name: str) -> Form:
        found = self._types.get(name)
        if found is None:
            shape = self._shapes.types[name]
            if shape.atomic:
                found = self._types[name] = VALUE
            else:
                found = self._types[name] = Form(STRUCT, open_=shape.open_)
                found.fields = {key: self._field(field) for key, field in shape.fields.items()}
        return found

    def _field(self, field: Field) -> Form:
        if field.list_type == "atomic":
            return VALUE
        if field.type == "list":
            return self._list(field)
        if field.type == "map":
            return Form(MAP, self._field(field.item) if field.item else ANYTHING)
        if field.type in self._shapes.types:
            return self._named(field.type)
        return ANYTHING if field.type == "any" else VALUE

    def _list(self, field: Field) -> Form:
        item = self._field(field.item) if field.item else ANYTHING
        if field.list_type == "map":
            return Form(LIST, item, tuple(sorted(field.list_keys)))
        if field.list_type == "set":
            return Form(SET, item)
        if not field.list_type and field.merges:
            return Form(LIST, item, (field.merge_key,)) if field.merge_key else Form(SET, item)
        return VALUE


def of_openapi(schema: Schema) -> Form:
    """The form of a piece of OpenAPI v3, as custom resources are described."""
    if schema.get("x-kubernetes-int-or-string"):
        return VALUE
    kind, deep = schema.get("type"), schema.get("x-kubernetes-preserve-unknown-fields")
    if kind == "array":
        return _openapi_list(schema)
    if kind != "object":
        return ANYTHING if deep or not kind else VALUE
    if schema.get("x-kubernetes-map-type") == "atomic":
        return VALUE
    more = schema.get("additionalProperties")
    if more and not schema.get("properties"):
        return Form(MAP, of_openapi(more) if isinstance(more, dict) else ANYTHING)
    if not schema.get("properties"):
        return ANYTHING
    made = Form(STRUCT, open_=bool(deep))
    made.fields = {name: of_openapi(inner) for name, inner in schema["properties"].items()}
    if schema.get("x-kubernetes-embedded-resource"):
        made.fields = {"apiVersion": VALUE, "kind": VALUE, "metadata": ANYTHING, **made.fields}
    return made


def _openapi_list(schema: Schema) -> Form:
    item = of_openapi(schema.get("items") or {})
    match schema.get("x-kubernetes-list-type"):
        case "map":
            return Form(LIST, item, tuple(sorted(schema.get("x-kubernetes-list-map-keys") or ())))
        case "set":
            return Form(SET, item)
    return VALUE
