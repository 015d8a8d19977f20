"""Objects in etcd: JSON at `/registry/...`, versioned by etcd's own revisions.

    resourceVersion = the key's mod_revision, put in when reading and never stored; as metadata comes first in what we
                      store, it is put into the bytes, with nothing decoded
    update          = read, change, write if nobody wrote since; else again with what they wrote
    delete          = the same; the last state is returned with the deletion's revision as its resourceVersion

Raises `nodecore.errors`: NotFound, AlreadyExists, Conflict, Expired (a revision compacted away), Unreachable.
Must not know: HTTP, kinds, what a valid object is. Read next: `minik8s/apiserver/storage/watchcache.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from nodecore.errors import AlreadyExists, Conflict, Invalid, NotFound
from nodecore.etcd.client import Delete, EtcdClient, Get, KeyValue, Put, absent, unchanged

Object = dict[str, Any]
PAGE = 1000
FIRST = ("apiVersion", "kind", "metadata")
HEAD = re.compile(rb'\{(?:"apiVersion":"[^"\\]*",)?(?:"kind":"[^"\\]*",)?"metadata":\{')
NAME = b'"resourceVersion"'  # stored by others, or a reference to another object: looked at closely


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects in order of their keys at `revision`; `next` is the key to go on from, empty at the end."""

    objects: list[Object]
    revision: int
    next: str = ""
    remaining: int = 0

    @property
    def more(self) -> bool:
        """Whether a limit cut it."""
        return bool(self.next)


class Storage:
    """The objects of one cluster; keys are whole etcd keys such as `/registry/pods/default/web`."""

    def __init__(self, etcd: EtcdClient) -> None:
        self.etcd = etcd

    async def create(self, key: str, obj: Object, *, lease: int = 0) -> Object:
        """Write an object that must not be there yet; returns it with its resourceVersion. It ends with its lease, if any."""
        value = encode(obj)
        done = await self.etcd.txn([absent(key)], [Put(key, value, lease)])
        if not done.succeeded:
            raise AlreadyExists(f"{key} already exists")
        return _stored(obj, done.revision)

    async def get(self, key: str, *, revision: int = 0) -> Object:
        """One object, as it is or was at `revision`."""
        return _object(_present(await self.etcd.get(key, revision=revision), key))

    async def list(self, prefix: str, *, revision: int = 0, limit: int = 0, start: str = "") -> Listing:
        """The objects under `prefix` (end it with `/`), all at one revision, at most `limit`, from `start` on."""
        objects: list[Object] = []
        at = start
        while True:
            size = min(PAGE, limit - len(objects)) if limit else PAGE
            page = await self.etcd.range(prefix, revision=revision, limit=size, start=at)
            revision = revision or page.revision
            objects += [_object(kv) for kv in page.items]
            at = page.items[-1].key + "\0" if page.more else ""
            if not at or (limit and len(objects) >= limit):
                return Listing(objects, revision, at, page.count - len(page.items))

    async def update(self, key: str, change: Callable[[Object], Object | None], *, expect: str = "",
                     lease: int = 0) -> Object:
        """Store what `change` makes of the object (it may alter its argument), deleting it on None.

        `change` is called anew with the newer object when somebody else wrote in between, unless `expect`, a
        resourceVersion, says which state it was meant for: then Conflict is raised. Nothing is written when
        nothing changed. What is written hangs on `lease`, and on none it had before.
        """
        kv = _present(await self.etcd.get(key), key)
        while True:
            if expect and expect != str(kv.mod_revision):
                raise Conflict(f"{key} has been modified: resourceVersion is {kv.mod_revision}, not {expect}")
            wanted = change(_object(kv))
            if wanted is None:
                found = await self._delete(kv)
            else:
                value = encode(wanted)
                if value == kv.value or _same(value, kv.value):
                    return _object(kv)
                found = await self._write(kv, wanted, value, lease)
            if isinstance(found, dict):
                return found
            kv = found

    async def delete(self, key: str, *, check: Callable[[Object], None] | None = None) -> Object:
        """Remove an object that `check`, which sees its current state and may raise, agrees to lose."""
        kv = _present(await self.etcd.get(key), key)
        while True:
            if check:
                check(_object(kv))
            found = await self._delete(kv)
            if isinstance(found, dict):
                return found
            kv = found

    async def _write(self, kv: KeyValue, obj: Object, value: bytes, lease: int) -> Object | KeyValue:
        """The object as stored, or the key-value that came in between."""
        done = await self.etcd.txn([unchanged(kv.key, kv.mod_revision)], [Put(kv.key, value, lease)], [Get(kv.key)])
        if done.succeeded:
            return _stored(obj, done.revision)
        return _present(next(iter(done.responses[0].items), None), kv.key)

    async def _delete(self, kv: KeyValue) -> Object | KeyValue:
        """The last state of the object, or the key-value that came in between."""
        done = await self.etcd.txn([unchanged(kv.key, kv.mod_revision)], [Delete(kv.key)], [Get(kv.key)])
        if done.succeeded:
            return versioned(decode(kv.value, kv.key), done.revision)
        return _present(next(iter(done.responses[0].items), None), kv.key)


def encode(obj: Object) -> bytes:
    """The stored form: compact JSON without `metadata.resourceVersion`, its head in FIRST's order."""
    meta = obj.get("metadata") or {}
    if "resourceVersion" in meta:
        obj = {**obj, "metadata": {name: value for name, value in meta.items() if name != "resourceVersion"}}
    if tuple(islice(obj, len(FIRST))) != FIRST:
        obj = {**{name: obj[name] for name in FIRST if name in obj}, **obj}
    return msgspec.json.encode(obj)


def with_version(value: bytes, revision: int) -> bytes | None:
    """The bytes of a stored form with its resourceVersion put in; None for what was not stored by us, and must be decoded."""
    head = HEAD.match(value)
    if not head or NAME in value:
        return None
    try:
        str(value, "utf-8")
        msgspec.json.decode(value, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    end = head.end()
    return b'%b"resourceVersion":"%d"%b%b' % (value[:end], revision, b"" if value[end:end + 1] == b"}" else b",", value[end:])


def decode(value: bytes, key: str) -> Object:
    """The object of a stored form; Invalid when it is none."""
    try:
        found = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{key} in etcd is not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("metadata", {}), dict):
        raise Invalid(f"{key} in etcd is not a JSON object")
    return found


def versioned(obj: Object, revision: int) -> Object:
    """The same object, its `metadata.resourceVersion` set."""
    obj.setdefault("metadata", {})["resourceVersion"] = str(revision)
    return obj


def _stored(obj: Object, revision: int) -> Object:
    """An object that has been stored, as it is read from then on; the one given stays as it is."""
    return {**obj, "metadata": {**(obj.get("metadata") or {}), "resourceVersion": str(revision)}}


def _object(kv: KeyValue) -> Object:
    return versioned(decode(kv.value, kv.key), kv.mod_revision)


def _present(kv: KeyValue | None, key: str) -> KeyValue:
    if kv is None:
        raise NotFound(f"{key} not found")
    return kv


def _same(one: bytes, other: bytes) -> bool:
    """Whether two stored forms differ in nothing but the order of their fields."""
    return len(one) == len(other) and bool(msgspec.json.decode(one) == msgspec.json.decode(other))
