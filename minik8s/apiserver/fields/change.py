"""What is the difference between two states of an object, and which fields does a configuration name: as sets of paths.

    compare(form, old, new)     touched: added or given another value; removed
    named(form, config)         what a server-side apply claims: single values, items of lists and maps, empty structs

A field that is null counts as absent. Items of a list that appear twice are one value together.
Pure. Must not know: who owns what. Read next: `merge.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minik8s.apiserver.fields.forms import ANY, KEY_DEFAULTS, LIST, MAP, NOBODY, SET, STRUCT, Form
from minik8s.apiserver.fields.paths import LEAF, SELF, Tree, key_element, text, value_element
from nodecore.errors import Invalid

Object = dict[str, Any]


def compare(form: Form, old: Object, new: Object) -> tuple[Tree, Tree]:
    """The paths that were touched, and those that are gone."""
    touched: Tree = {}
    removed: Tree = {}
    _objects(form, old, new, touched, removed)
    return touched, removed


def _objects(form: Form, old: Object, new: Object, touched: Tree, removed: Tree) -> None:
    fields, item = (form.fields, None) if form.kind == STRUCT else ({}, form.item)
    for name, value in new.items():
        if value is None:
            continue
        before = old.get(name)
        if before is None:
            inner = item or form.field(name)
            if inner.kind != NOBODY:
                touched["f:" + name] = whole(inner, value)
        elif before != value:
            inner = item or fields.get(name) or form.field(name)
            if inner.kind != NOBODY:
                _values(inner, before, value, "f:" + name, touched, removed)
    for name, value in old.items():
        if value is not None and new.get(name) is None:
            inner = item or form.field(name)
            if inner.kind != NOBODY:
                removed["f:" + name] = whole(inner, value)


def _values(form: Form, old: Any, new: Any, element: str, touched: Tree, removed: Tree) -> None:
    """Two different values of one path."""
    more: Tree = {}
    less: Tree = {}
    if form.kind in (STRUCT, MAP, ANY) and isinstance(old, dict) and isinstance(new, dict):
        _objects(form, old, new, more, less)
    elif form.kind in (LIST, SET) and isinstance(old, list) and isinstance(new, list):
        _lists(form, old, new, more, less)
    else:
        more = touched[element] = whole(form, new)
        less = {inner: node for inner, node in whole(form, old).items() if inner not in more and inner != SELF}
    if more:
        touched[element] = more
    if less:
        removed[element] = less


def _lists(form: Form, old: list[Any], new: list[Any], touched: Tree, removed: Tree) -> None:
    before, after = indexed(form, old), indexed(form, new)
    for element, values in after.items():
        had = before.get(element)
        if had is None:
            touched[element] = whole(form.item, values[0]) if len(values) == 1 else LEAF
        elif had != values:
            if len(had) == len(values) == 1:
                _values(form.item, had[0], values[0], element, touched, removed)
            else:
                touched[element] = LEAF
    for element, values in before.items():
        if element not in after:
            removed[element] = whole(form.item, values[0]) if len(values) == 1 else LEAF


def whole(form: Form, value: Any) -> Tree:
    """The node of a value with all that is in it: what an author owns who wrote it where nothing was."""
    kind = form.kind
    if kind in (STRUCT, MAP, ANY):
        if not isinstance(value, dict) or not value:
            return LEAF
        made: Tree = {SELF: LEAF}
        fields, item = form.fields, form.item if kind != STRUCT else None
        for name, inner in value.items():
            if inner is None:
                continue
            below = item or fields.get(name) or form.field(name)
            if below.kind == 0:
                made["f:" + name] = LEAF
            elif below.kind != NOBODY:
                made["f:" + name] = whole(below, inner)
        return made if len(made) > 1 else LEAF
    if kind in (LIST, SET) and isinstance(value, list) and value:
        listed: Tree = {SELF: LEAF}
        for element, values in indexed(form, value).items():
            listed[element] = whole(form.item, values[0]) if len(values) == 1 else LEAF
        return listed
    return LEAF


def indexed(form: Form, items: list[Any]) -> dict[str, list[Any]]:
    """The items of a list by their path elements."""
    found: dict[str, list[Any]] = {}
    for at, item in enumerate(items):
        element = element_of(form, item) or f"i:{at}"
        if element in found:
            found[element].append(item)
        else:
            found[element] = [item]
    return found


def element_of(form: Form, item: Any) -> str:
    """How a list item is called among its fellows; empty for one without any of the keys."""
    if form.kind == SET:
        return value_element(item)
    if not isinstance(item, dict):
        return ""
    keys = {}
    for key in form.keys:
        value = item.get(key, KEY_DEFAULTS.get(key))
        if value is not None:
            keys[key] = value
    return key_element(keys) if keys and not keys.keys() <= KEY_DEFAULTS.keys() else ""


def named(form: Form, config: Object) -> Tree:
    """The set of fields a configuration names; Invalid, naming each one, for what the form does not know or allow."""
    problems: list[str] = []
    found = _named(form, config, (), problems)
    if problems:
        raise Invalid(problems[0] if len(problems) == 1 else "errors:\n" + "\n".join(f"  {each}" for each in problems[:50]))
    if found and found.get("f:metadata") == LEAF:
        return {element: node for element, node in found.items() if element != "f:metadata"}
    return found or {}


def _named(form: Form, value: Any, path: tuple[str, ...], problems: list[str]) -> Tree | None:
    """The node of a value, None where there is nothing to own."""
    if value is None or form.kind not in (STRUCT, MAP, ANY, LIST, SET) or (form.kind == ANY and not isinstance(value, dict)):
        return LEAF
    made: Tree = {}
    if form.kind in (LIST, SET):
        if not isinstance(value, list):
            problems.append(f"{text(path)}: expected list, got {_shown(value)}")
            return None
        for element, item in _items(form, value, path, problems):
            below = _named(form.item, item, (*path, element), problems)
            made[element] = {SELF: LEAF, **below} if below else LEAF
        return made or None
    if not isinstance(value, dict):
        problems.append(f"{text(path)}: expected map, got {_shown(value)}")
        return None
    for name, inner in value.items():
        at = (*path, "f:" + name)
        if form.kind == STRUCT and name not in form.fields and not form.open:
            problems.append(f"{text(at)}: field not declared in schema")
            continue
        below_form = form.field(name)
        if below_form.kind == NOBODY:
            continue
        below = _named(below_form, inner, at, problems)
        if below is None:
            below = LEAF if inner == {} else None
        elif form.kind != STRUCT or name not in form.fields:
            below = {SELF: LEAF, **below} if below else LEAF
        if below is not None:
            made["f:" + name] = below
    return made or (LEAF if not value else None)


def _items(form: Form, value: list[Any], path: tuple[str, ...], problems: list[str]) -> Iterator[tuple[str, Any]]:
    seen = set()
    for at, item in enumerate(value):
        element = "" if item is None else element_of(form, item)
        missing = next((key for key in form.keys if isinstance(item, dict) and item.get(key, KEY_DEFAULTS.get(key)) is None), "")
        if missing:
            problems.append(f"{text(path)}: element {at}: associative list with keys has an element that omits key field "
                            f'"{missing}" (and doesn\'t have default value)')
        elif not element:
            why = "associative list may not have null elements" if item is None else f"expected map, got {_shown(item)}"
            problems.append(f"{text(path)}: element {at}: {why}")
        elif element in seen:
            problems.append(f"{text(path)}: duplicate entries for key {text((element,))}")
        else:
            seen.add(element)
            yield element, item


def _shown(value: Any) -> str:
    return f"&{{{str(value)[:100]}}}"
