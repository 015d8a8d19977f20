"""A configuration merged into the live object, and what its author no longer names taken out again.

    merge(form, live, config)            config wins; maps and keyed lists merge, all else is replaced
    prune(form, obj, last, claimed)      obj without what was in `last` and is claimed by nobody now

Pure: what is handed in stays as it was, and is shared with what is returned. Must not know: who the owners are.
Read next: `ownership.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.fields.change import element_of
from minik8s.apiserver.fields.forms import ANY, LIST, MAP, SET, STRUCT, Form
from minik8s.apiserver.fields.paths import Tree, is_member

Object = dict[str, Any]
GONE: Any = object()


def merge(form: Form, live: Object, config: Object) -> Object:
    """The live object with the configuration in it."""
    merged = dict(live)
    for name, value in config.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(form.field(name), merged.get(name), value)
    return merged


def _merge(form: Form, live: Any, config: Any) -> Any:
    if form.kind in (STRUCT, MAP, ANY) and isinstance(config, dict):
        return merge(form, live if isinstance(live, dict) else {}, config)
    if form.kind in (LIST, SET) and isinstance(config, list) and isinstance(live, list):
        return _merge_lists(form, live, config)
    if form.kind == LIST and isinstance(config, list):
        return [_merge(form.item, None, item) for item in config]
    return config


def _merge_lists(form: Form, live: list[Any], config: list[Any]) -> list[Any]:
    """The configuration's items in its order; those of the live list alone stay behind the neighbours they had."""
    names = [element_of(form, item) for item in live]
    wanted = {element_of(form, item): item for item in config}
    had: dict[str, Any] = {}
    for name, item in zip(names, live, strict=True):
        had.setdefault(name, item)
    made: list[Any] = []
    passed: set[str] = set()
    at = 0
    for name, item in wanted.items():
        ahead = name in had and name not in passed
        while at < len(live) and names[at] != name and (ahead or names[at] not in wanted):
            if names[at] in wanted:
                passed.add(names[at])
            else:
                made.append(live[at])
            at += 1
        at += at < len(live) and names[at] == name
        made.append(_merge(form.item, had.get(name), item))
    return made + [item for name, item in zip(names[at:], live[at:], strict=True) if name not in wanted]


def prune(form: Form, obj: Object, last: Tree, claimed: Tree) -> Object:
    """The object without what was in `last`, unless something at or below it is claimed."""
    if not last:
        return obj
    found = _prune(form, obj, last, claimed)
    return found if isinstance(found, dict) else {}


def _prune(form: Form, value: Any, last: Tree, claimed: Tree) -> Any:
    if form.kind in (STRUCT, MAP, ANY) and isinstance(value, dict):
        kept: Object = {}
        for name, inner in value.items():
            element = "f:" + name
            below = last.get(element)
            struct = form.kind == STRUCT and name in form.fields
            left = inner if below is None else _pruned(form.field(name), inner, below, claimed.get(element), struct=struct)
            if left is not GONE:
                kept[name] = left
        return kept if kept or not value else GONE
    if form.kind in (LIST, SET) and isinstance(value, list):
        items = []
        for at, item in enumerate(value):
            element = element_of(form, item) or f"i:{at}"
            below = last.get(element)
            left = item if below is None else _pruned(form.item, item, below, claimed.get(element), struct=False)
            if left is not GONE:
                items.append(left)
        return items if items or not value else GONE
    return value


def _pruned(form: Form, value: Any, last: Tree, claimed: Tree | None, *, struct: bool) -> Any:
    """One value that was applied in whole or in part; a struct's field belongs to whoever has anything in it."""
    if struct or is_member(last):
        if claimed is None or not (struct or is_member(claimed)):
            return GONE
        if not last:
            return value
    left = _prune(form, value, last, claimed or {})
    return type(value)() if left is GONE and claimed is not None and is_member(claimed) else left
