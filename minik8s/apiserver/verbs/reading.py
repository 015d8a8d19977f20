"""The verbs that read: get and list, as objects, Tables or bare metadata.

Must not know: HTTP's machinery. Read next: `paging.py`, `watching.py`, `request/negotiation.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from minik8s.apiserver import schema
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.request.call import Answer, Call
from minik8s.apiserver.request.listoptions import number
from minik8s.apiserver.request.negotiation import Form, form_of
from minik8s.apiserver.request.status import bad_request
from minik8s.apiserver.schema import protobuf_out
from minik8s.apiserver.storage.watchcache_window import Entry
from minik8s.apiserver.verbs.paging import Page, freshen, page_of

Object = dict[str, Any]
BREATH = 100


async def get(cluster: Cluster, call: Call) -> Answer:
    """Answer with one object: from the cache, once that is as new as the client asks, if there is one yet."""
    kind, target = call.kind, call.target
    cache = cluster.begun(kind)
    if cache and cache.synced:
        await freshen(cluster, call, number(call.query, "resourceVersion"))
        entry = cache.get(kind.key(target.namespace, target.name))
        if entry:
            return shown_entry(call, entry)
    return shown(call, await cluster.get(kind, target.namespace, target.name))


def shown_entry(call: Call, entry: Entry) -> Answer:
    """One object of a cache: its bytes, if JSON is what the client wants."""
    form = wanted(call)
    return Answer(200, entry.data, form.content) if form.plain else shown(call, entry.object)


def wanted(call: Call) -> Form:
    """The form the client wants of what this kind can be had in."""
    resource = call.kind.resource
    return form_of(call.accept, binary=call.kind.custom is None and protobuf_out.known(resource.api_version, resource.kind))


def shown(call: Call, obj: Object, status: int = 200) -> Answer:
    """One object in the form the client wants."""
    form = wanted(call)
    if form.table:
        body = tabled(call, form, [obj], {"resourceVersion": obj["metadata"].get("resourceVersion", "")})
    else:
        body = partial(obj, form) if form.partial else obj
    return Answer(status, protobuf_out.envelope(body) if form.binary else msgspec.json.encode(body), form.content)


def tabled(call: Call, form: Form, objects: Iterable[Object], metadata: Object, *, headers: bool = True) -> Object:
    """The Table of some objects."""
    include = call.query.get("includeObject") or "Metadata"
    if include not in ("Metadata", "Object", "None"):
        raise bad_request(f"unrecognized includeObject value: {include[:50]!r}")
    layout = call.kind.custom.layout if call.kind.custom else None
    made = schema.table(call.kind.resource.kind, objects, datetime.now(UTC), include=include, metadata=metadata, headers=headers,
                        layout=layout)
    made["apiVersion"] = f"meta.k8s.io/{form.version}"
    return made


def partial(obj: Object, form: Form) -> Object:
    """An object's metadata only."""
    return {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{form.version}", "metadata": obj["metadata"]}


async def list_(cluster: Cluster, call: Call) -> Answer:
    """Answer with a list."""
    async with cluster.turn(call):
        return await _list(cluster, call)


async def _list(cluster: Cluster, call: Call) -> Answer:
    wanted(call)
    return await listed(call, await page_of(cluster, call))


async def listed(call: Call, page: Page) -> Answer:
    """A page in the form the client wants."""
    form = wanted(call)
    meta: Object = {"resourceVersion": str(page.revision)}
    if page.rest:
        meta["continue"] = page.rest
        if page.remaining:
            meta["remainingItemCount"] = page.remaining
    if form.table:
        table = tabled(call, form, (), meta)
        rows = await _each(page.items, lambda objects: map(msgspec.json.encode, tabled(call, form, objects, meta)["rows"]))
        return _whole(table, "rows", rows, form)
    resource = call.kind.resource
    name, version, items = f"{resource.kind}List", resource.api_version, page.items
    if form.partial:
        name, version = "PartialObjectMetadataList", f"meta.k8s.io/{form.version}"
    if form.binary:
        encode = protobuf_out.item_of(version, name)
        made = await _each(items, lambda objects: map(encode, objects))
        return Answer(200, protobuf_out.joined(version, name, meta, made), form.content)
    if form.partial:
        items = await _each(items, lambda objects: (msgspec.json.encode(partial(obj, form)) for obj in objects))
    return _whole({"kind": name, "apiVersion": version, "metadata": meta}, "items", items, form)


async def _each(items: list[bytes], make: Callable[[list[Object]], Iterable[bytes]]) -> list[bytes]:
    """What is made of each object; other requests are served meanwhile."""
    made: list[bytes] = []
    for at in range(0, len(items), BREATH):
        if at:
            await asyncio.sleep(0)
        made += make([msgspec.json.decode(item) for item in items[at:at + BREATH]])
    return made


def _whole(head: Object, name: str, items: list[bytes], form: Form) -> Answer:
    """A document with a list as its last field."""
    head.pop(name, None)
    begun = msgspec.json.encode(head)[:-1] + b',"%b":[' % name.encode()
    return Answer(200, begun, form.content, items=items) if items else Answer(200, begun + b"]}", form.content)
