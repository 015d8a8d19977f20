"""Who owns which fields, and how an operation moves that: an update takes what it touches, an apply what it names.

    updated(form, old, new, owners, who, now)             owners after a create, PUT or patch
    applied(form, live, config, owners, who, now, force)  the object and owners after a server-side apply, or Contested

An owner is told apart by name, operation and subresource; updates by API version as well. Pure: the time is handed in.
Must not know: HTTP, storage. Read next: `tracking.py`, what the verbs call.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

from minik8s.apiserver.fields.change import compare, named
from minik8s.apiserver.fields.forms import Form
from minik8s.apiserver.fields.merge import merge, prune
from minik8s.apiserver.fields.paths import Tree, difference, intersection, members, read, text, union
from nodecore.errors import Conflict, Invalid

Object = dict[str, Any]
APPLY, UPDATE = "Apply", "Update"
ANCIENT = "ancient-changes"
MOST_UPDATERS = 10


class Who(NamedTuple):
    """The identity of an owner."""

    manager: str
    operation: str
    api_version: str
    subresource: str = ""

    @property
    def key(self) -> Key:
        """What makes it the same owner the next time."""
        return (self.manager, self.operation, "" if self.operation == APPLY else self.api_version, self.subresource)


class Owned(NamedTuple):
    """An owner's fields and when it last took some."""

    who: Who
    fields: Tree
    time: str = ""


Key = tuple[str, str, str, str]
Owners = Mapping[Key, Owned]


class Contested(Conflict):
    """An apply would change what others own; `fields` are their identities and the paths, in order."""

    def __init__(self, fields: list[tuple[Who, tuple[str, ...]]]) -> None:
        self.fields = fields
        super().__init__(_contested(fields))


def updated(form: Form, old: Object, new: Object, owners: Owners, who: Who, now: str) -> Owners:
    """The owners after `who` made `new` of `old`."""
    touched, removed = compare(form, old, new)
    if not touched and not removed:
        return owners
    lost = union(touched, removed)
    left = {key: owned._replace(fields=fields) for key, owned in owners.items() if (fields := difference(owned.fields, lost))}
    if touched:
        before = left.get(who.key)
        left[who.key] = Owned(who, union(before.fields, touched) if before else touched, now)
    return capped(left)


def applied(form: Form, live: Object, config: Object, owners: Owners, who: Who, now: str, *,
            force: bool = False) -> tuple[Object, Owners]:
    """The live object with what `who` wants in it, without what it wanted before and no longer does."""
    wanted = named(form, config)
    before = owners.get(who.key)
    last = before.fields if before else {}
    others = {key: owned for key, owned in owners.items() if key != who.key}
    claimed = reduce(union, (owned.fields for owned in others.values()), wanted)
    new = prune(form, merge(form, live, config), last, claimed)
    touched, removed = compare(form, live, new)
    contested = [(owned.who, path) for _, owned in sorted(others.items())
                 for path in sorted(members(intersection(owned.fields, touched)))]
    if contested and not force:
        raise Contested(contested)
    lost = union(touched, removed)
    left = {key: owned._replace(fields=fields) for key, owned in others.items() if (fields := difference(owned.fields, lost))}
    if wanted:
        same = before is not None and last == wanted and not lost
        left[who.key] = Owned(who, wanted, before.time if same and before else now)
    return new, left


def capped(owners: dict[Key, Owned]) -> Owners:
    """At most so many updaters: the oldest become one, so that an object's history does not outgrow it."""
    updaters = [owned for owned in owners.values() if owned.who.operation == UPDATE]
    if len(updaters) <= MOST_UPDATERS:
        return owners
    updaters.sort(key=lambda owned: (owned.time, owned.who))
    surplus = [owned for owned in updaters if owned.who.manager != ANCIENT][: len(updaters) - MOST_UPDATERS + 1]
    kept = {key: owned for key, owned in owners.items() if owned not in surplus}
    for owned in surplus:
        who = Who(ANCIENT, UPDATE, owned.who.api_version)
        there = kept.get(who.key)
        kept[who.key] = Owned(who, union(there.fields, owned.fields) if there else owned.fields, owned.time)
    return kept


def decode(entries: Any) -> Owners:
    """Owners from an object's `managedFields`, as this server wrote it."""
    found: dict[Key, Owned] = {}
    for entry in entries or ():
        who = Who(entry.get("manager", ""), entry.get("operation", ""), entry.get("apiVersion", ""), entry.get("subresource", ""))
        found[who.key] = Owned(who, entry.get("fieldsV1") or {}, entry.get("time", ""))
    return found


def decode_foreign(entries: Any) -> Owners:
    """Owners from a `managedFields` that a client wrote; Invalid when it is none."""
    if not isinstance(entries, list):
        raise Invalid("metadata.managedFields is not a list")
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("operation") not in (APPLY, UPDATE):
            raise Invalid("metadata.managedFields: operation must be Apply or Update")
        if entry.get("fieldsType", "FieldsV1") != "FieldsV1":
            raise Invalid("metadata.managedFields: fieldsType must be FieldsV1")
        if any(not isinstance(entry.get(name) or "", str) for name in ("manager", "apiVersion", "subresource", "time")):
            raise Invalid("metadata.managedFields: manager, apiVersion, subresource and time are strings")
    clean = [{name: value for name, value in entry.items() if value is not None} for entry in entries]
    found: dict[Key, Owned] = {}
    for key, owned in decode(clean).items():
        fields = read(owned.fields)
        if fields:
            found[key] = owned._replace(fields=fields)
    return found


def encode(owners: Owners) -> list[Object]:
    """The `managedFields` of an object: appliers first, then by time."""
    ordered = sorted(owners.values(), key=lambda owned: (owned.who.operation, owned.time, owned.who))
    return [_entry(owned) for owned in ordered]


def _entry(owned: Owned) -> Object:
    who = owned.who
    made: Object = {"manager": who.manager, "operation": who.operation, "apiVersion": who.api_version}
    if owned.time:
        made["time"] = owned.time
    made["fieldsType"], made["fieldsV1"] = "FieldsV1", owned.fields
    if who.subresource:
        made["subresource"] = who.subresource
    return made


def _contested(fields: list[tuple[Who, tuple[str, ...]]]) -> str:
    if len(fields) == 1:
        who, path = fields[0]
        return f"Apply failed with 1 conflict: conflict with {owner_text(who)}: {text(path)}"
    by_owner: dict[str, list[str]] = {}
    for who, path in fields:
        by_owner.setdefault(owner_text(who), []).append(f"- {text(path)}")
    lines = [line for name, paths in sorted(by_owner.items()) for line in (f"conflicts with {name}:", *paths)]
    return f"Apply failed with {len(fields)} conflicts: " + "\n".join(lines)


def owner_text(who: Who) -> str:
    """An owner as conflicts name it."""
    name = f'"{who.manager}"' + (f' with subresource "{who.subresource}"' if who.subresource else "")
    return f"{name} using {who.api_version}" if who.operation == UPDATE else name
