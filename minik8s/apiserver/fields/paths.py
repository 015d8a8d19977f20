"""Sets of fields as values: the very trees that `fieldsV1` holds, shared and never changed.

    {"f:spec": {"f:replicas": {}, "f:ports": {'k:{"port":80}': {".": {}, "f:name": {}}}}}

An element is `f:` a name, `k:` the keys of a list item, `v:` an item of a set, `i:` an index. A node without children is a
member; one with children is a member if `.` is among them. Keys and values are compact JSON with sorted names, so that
equal elements are equal texts. The empty dict as a whole is the empty set. Every function returns a normal tree: no node
that is neither a member nor has members below it, and none that holds nothing but `.`.

Pure. Must not know: schemas, objects. Read next: `forms.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from nodecore.errors import Invalid

Tree = dict[str, Any]
SELF = "."
LEAF: Tree = {}
PREFIXES = ("f:", "k:", "v:", "i:")


def is_member(node: Tree) -> bool:
    """Whether the set holds the path that leads to this node."""
    return not node or SELF in node


def union(one: Tree, other: Tree) -> Tree:
    """What is in either."""
    if not one:
        return other
    return _union(one, other) if other else one


def difference(one: Tree, other: Tree) -> Tree:
    """What is in the first and not in the second."""
    if not one or not other:
        return one
    found = _difference(one, other)
    return found if found is not None else {}


def intersection(one: Tree, other: Tree) -> Tree:
    """What is in both."""
    if not one or not other:
        return {}
    found = _intersection(one, other)
    return found if found is not None else {}


def _union(one: Tree, other: Tree) -> Tree:
    if one is other:
        return one
    if not one:
        return other if is_member(other) else {SELF: LEAF, **other}
    if not other:
        return one if SELF in one else {SELF: LEAF, **one}
    made = dict(one)
    for element, node in other.items():
        made[element] = _union(made[element], node) if element in made else node
    return made


def _difference(one: Tree, other: Tree) -> Tree | None:
    if not one:
        return None if is_member(other) else one
    if not other:
        return _normal({element: node for element, node in one.items() if element != SELF})
    if one.keys().isdisjoint(other):
        return one
    made = {}
    for element, node in one.items():
        against = other.get(element)
        left = node if against is None else _difference(node, against)
        if left is not None:
            made[element] = left
    return _normal(made)


def _intersection(one: Tree, other: Tree) -> Tree | None:
    if not one or not other:
        return LEAF if is_member(one) and is_member(other) else None
    made = {}
    for element, node in one.items():
        against = other.get(element)
        common = None if against is None else _intersection(node, against)
        if common is not None:
            made[element] = common
    return _normal(made)


def _normal(node: Tree) -> Tree | None:
    if not node:
        return None
    return LEAF if len(node) == 1 and SELF in node else node


def members(tree: Tree) -> Iterator[tuple[str, ...]]:
    """Every path in the set, parents before children."""
    todo: list[tuple[tuple[str, ...], Tree]] = [((), tree)]
    while todo:
        path, node = todo.pop()
        if path and is_member(node):
            yield path
        todo += [((*path, element), inner) for element, inner in reversed(node.items()) if element != SELF]


def text(path: tuple[str, ...]) -> str:
    """A path for people: `.spec.ports[port=80].name`."""
    return "".join(map(_element_text, path))


def _element_text(element: str) -> str:
    kind, rest = element[:2], element[2:]
    if kind == "f:":
        return f".{rest}"
    if kind == "i:":
        return f"[{rest}]"
    value = json.loads(rest)
    if kind == "k:":
        return "[" + ",".join(f"{name}={_value_text(inner)}" for name, inner in sorted(value.items())) + "]"
    return f"[={_value_text(value)}]"


def _value_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def key_element(keys: dict[str, Any]) -> str:
    """The element of a list item, by its keys."""
    return "k:" + msgspec.json.encode(keys, order="sorted").decode()


def value_element(value: Any) -> str:
    """The element of an item of a set."""
    return "v:" + msgspec.json.encode(value, order="sorted").decode()


def read(tree: Any) -> Tree:
    """A set that somebody else wrote, made normal; Invalid when it is none."""
    if not isinstance(tree, dict):
        raise Invalid("fieldsV1 is not an object")
    made: Tree = {}
    for element, node in tree.items():
        if element == SELF:
            continue
        known = _read_element(element)
        inner = _read_node(node)
        if inner is not None:
            made[known] = _union(made[known], inner) if known in made else inner
    return made


def _read_node(node: Any) -> Tree | None:
    if node == {}:
        return LEAF
    made = read(node)
    if SELF not in node:
        return made or None
    return {SELF: LEAF, **made} if made else LEAF


def _read_element(element: str) -> str:
    kind, rest = element[:2], element[2:]
    if kind not in PREFIXES:
        raise Invalid(f"fieldsV1: {element[:100]!r} is no path element")
    if kind == "f:":
        return element
    try:
        value = msgspec.json.decode(rest)
    except (msgspec.DecodeError, RecursionError):
        raise Invalid(f"fieldsV1: {element[:100]!r} holds no JSON") from None
    wanted = {"k:": dict, "i:": int}.get(kind)
    if wanted and (not isinstance(value, wanted) or isinstance(value, bool)):
        raise Invalid(f"fieldsV1: {element[:100]!r} is no path element")
    return kind + msgspec.json.encode(value, order="sorted").decode()
