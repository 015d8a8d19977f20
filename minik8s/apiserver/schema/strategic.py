"""Strategic merge patch: like a merge patch, but lists with a merge key merge by it, and directives steer.

Directives: `$patch: replace|delete|merge` in an object or list element, `$retainKeys`, `$deleteFromPrimitiveList/<field>`,
`$setElementOrder/<field>`. What kubectl's apply, set, taint, cordon and rollout send. Pure: inputs stay as they were.
Must not know: HTTP, storage. Read next: `shapes.py`, where merge keys come from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from minik8s.apiserver.schema.shapes import Field, Shape, Shapes
from nodecore.errors import Invalid

PATCH, RETAIN = "$patch", "$retainKeys"
ORDER, REMOVE = "$setElementOrder/", "$deleteFromPrimitiveList/"
Object = dict[str, Any]
Key = Callable[[Any], Any]


def strategic_merge(shapes: Shapes, gvk: tuple[str, str, str], target: Object, patch: Object) -> Object:
    """The object with the patch merged in by the rules of its kind (an unknown kind merges plainly, lists replaced)."""
    return Merger(shapes).merge(target, patch, shapes.of_kind(gvk))


class Merger:
    """The recursion, and the schema it walks along."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes

    def merge(self, target: Object, patch: Object, shape: Shape | None) -> Object:
        """One object into another."""
        if not isinstance(patch, dict):
            raise Invalid("a strategic merge patch is an object")
        directive = patch.get(PATCH)
        if directive == "delete":
            return {}
        if directive == "replace":
            return self.merge({}, {key: value for key, value in patch.items() if key != PATCH}, shape)
        if directive not in (None, "merge"):
            raise Invalid(f"unknown value {directive!r} of $patch: it is replace, delete or merge")
        merged = _retain(target, patch)
        for name in _names(patch):
            self._field(merged, patch, name, shape.fields.get(name) if shape else None)
        return merged

    def _field(self, merged: Object, patch: Object, name: str, field: Field | None) -> None:
        change = patch.get(name)
        if name in patch and change is None:
            merged.pop(name, None)
        elif isinstance(change, dict):
            old = merged.get(name)
            keep = old if isinstance(old, dict) and not (field and field.replaces) else {}
            inner = self._shapes.of_field(field.item if field and field.type == "map" else field)
            if field and field.type == "map":
                merged[name] = self._map(keep, change, inner)
            else:
                merged[name] = self.merge(keep, change, inner)
        elif field and field.type == "list" and field.merges:
            self._list(merged, patch, name, field)
        elif name in patch:
            merged[name] = change if field else _without_directives(change)

    def _map(self, target: Object, patch: Object, inner: Shape | None) -> Object:
        """A map of named values: each is merged by the item's shape."""
        values = Shape(fields={}, open_=True)
        if inner is None:
            return self.merge(target, patch, values)
        plain = {key: value for key, value in patch.items() if not isinstance(value, dict)}
        merged = self.merge(target, plain, values)
        for key, value in patch.items():
            if isinstance(value, dict):
                merged[key] = self.merge(merged.get(key) or {}, value, inner)
        return merged

    def _list(self, merged: Object, patch: Object, name: str, field: Field) -> None:
        old = merged.get(name) or []
        change, order, gone = (_list_of(patch, key) for key in (name, ORDER + name, REMOVE + name))
        if name not in patch and name not in merged and not order:
            return
        if field.item is not None and field.item.type in self._shapes.types:
            if not field.merge_key:
                raise Invalid(f"{name} has no merge key: it cannot be merged")
            made = self._objects(old, change, order, field)
        else:
            taken = {_hashed(item) for item in gone}
            made = _primitives([item for item in old if _hashed(item) not in taken], change, order)
        merged[name] = made

    def _objects(self, old: list[Any], change: list[Any], order: list[Any], field: Field) -> list[Any]:
        key = _key_of(field.merge_key)
        if any(isinstance(item, dict) and item.get(PATCH) == "replace" for item in change):
            return list(_without_directives(change))  # as it stands: two items may have the same key
        doomed = {_hashed(key(item)) for item in change if isinstance(item, dict) and item.get(PATCH) == "delete"}
        change = [item for item in change if not (isinstance(item, dict) and item.get(PATCH) == "delete")]
        result = [item for item in old if not (isinstance(item, dict) and _hashed(item.get(field.merge_key)) in doomed)]
        shape = self._shapes.of_field(field.item)
        places: dict[Any, int] = {}
        for at, had in enumerate(result):
            places.setdefault(_hashed(key(had)), at)
        for item in change:
            wanted = _hashed(key(item))
            if wanted not in places:
                places[wanted] = len(result)
                result.append(self.merge({}, item, shape))
            else:
                result[places[wanted]] = self.merge(result[places[wanted]], item, shape)
        return _ordered(result, change, order, old, key)


def _retain(target: Object, patch: Object) -> Object:
    keep = patch.get(RETAIN)
    if keep is None:
        return dict(target)
    if not isinstance(keep, list):
        raise Invalid("$retainKeys is a list of field names")
    kept = {name for name in keep if isinstance(name, str)}
    strange = [name for name in patch if not name.startswith("$") and patch[name] is not None and name not in kept]
    if strange:
        raise Invalid(f"$retainKeys does not name {', '.join(strange)[:1000]}, which the patch sets")
    return {name: value for name, value in target.items() if name in kept}


def _names(patch: Object) -> Iterable[str]:
    """The fields a patch touches, by themselves or through a directive, each once."""
    names = (key.partition("/")[2] if key.startswith((ORDER, REMOVE)) else key for key in patch if key not in (PATCH, RETAIN))
    return dict.fromkeys(names)


def _list_of(patch: Object, key: str) -> list[Any]:
    value = patch.get(key)
    if value is not None and not isinstance(value, list):
        raise Invalid(f"{key} in the patch must be a list")
    return value or []


def _key_of(merge_key: str) -> Key:
    def key(item: Any) -> Any:
        if not isinstance(item, dict) or item.get(merge_key) is None:
            raise Invalid(f"list element {item!r} does not contain declared merge key: {merge_key}")
        if isinstance(item[merge_key], dict | list):
            raise Invalid(f"list element {item!r}: its merge key {merge_key} is neither text nor a number")
        return item[merge_key]

    return key


def _primitives(old: list[Any], change: list[Any], order: list[Any]) -> list[Any]:
    unique = {_hashed(item): item for item in reversed([*old, *change])}
    return _ordered(list(reversed(unique.values())), change, order, old, lambda item: item)


def _hashed(value: Any) -> Any:
    """What stands for a value in a table: equal for equal JSON values, true apart from 1."""
    if isinstance(value, str):
        return value
    return (type(value) is bool, value) if isinstance(value, int | float) else msgspec.json.encode(value, order="sorted")


def _ordered(merged: list[Any], change: list[Any], order: list[Any], old: list[Any], key: Key) -> list[Any]:
    """The patch (or its $setElementOrder) decides the order of what it names; the rest keeps the server's order around it."""
    first: dict[Any, int] = {}
    for item in order or change:
        first.setdefault(_hashed(key(item)), len(first))
    if order:
        positions = [first.get(_hashed(key(item)), -1) for item in change]
        if -1 in positions or positions != sorted(positions):
            raise Invalid("the order in the patch list does not match its $setElementOrder list")
    server: dict[Any, int] = {}
    for at, item in enumerate(old):
        server.setdefault(_hashed(key(item)), at)
    known = [(_hashed(key(item)), item) for item in merged]
    named = deque(sorted((pair for pair in known if pair[0] in first), key=lambda pair: first[pair[0]]))
    rest = deque(sorted((pair for pair in known if pair[0] not in first), key=lambda pair: server[pair[0]]))
    result: list[Any] = []
    while named and rest:
        earlier = server[rest[0][0]] < server.get(named[0][0], -1)
        result.append((rest if earlier else named).popleft()[1])
    return [*result, *(item for _, item in (*named, *rest))]


def _without_directives(value: Any) -> Any:
    """A value of no known shape, as it is stored: directives left out, nulls of objects dropped."""
    if isinstance(value, dict):
        return {key: _without_directives(inner) for key, inner in value.items() if not key.startswith("$") and inner is not None}
    if isinstance(value, list):
        return [_without_directives(item) for item in value if not (isinstance(item, dict) and PATCH in item)]
    return value
