"""The verbs that read: get and list, as objects, Tables or bare metadata.

A list is read from the watch cache, made as fresh as the client asks (no resourceVersion: as new as etcd; 0: as it is;
n: not older than n). Later pages are read from etcd at the first page's revision.
Must not know: HTTP's machinery. Read next: `watching.py`, `request/negotiation.py`.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from minik8s.apiserver import schema
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.converting import shown as shown_as
from minik8s.apiserver.request import selectors
from minik8s.apiserver.request.call import Answer, Call, number
from minik8s.apiserver.request.negotiation import Form, form_of
from minik8s.apiserver.request.selectors import Matches
from minik8s.apiserver.request.status import Refused, bad_request, expired
from minik8s.apiserver.schema import protobuf_out
from minik8s.apiserver.storage.watchcache_window import Entry
from nodecore.errors import Expired, Unreachable

Object = dict[str, Any]
BREATH = 100


@dataclass(slots=True)
class Page:
    """A list or a part of it: encoded objects, the revision they stand at, and the token for the rest."""

    items: list[bytes]
    revision: int
    rest: str = ""
    remaining: int = 0


async def get(cluster: Cluster, call: Call) -> Answer:
    """Answer with one object: from the cache, once that is as new as the client asks, if there is one yet."""
    kind, target = call.kind, call.target
    cache = cluster.begun(kind)
    if cache and cache.synced:
        await freshen(cluster, call)
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
    form = wanted(call)
    page = await page_of(cluster, call)
    meta: Object = {"resourceVersion": str(page.revision)}
    if page.rest:
        meta["continue"] = page.rest
        if page.remaining:
            meta["remainingItemCount"] = page.remaining
    if form.table:
        objects = (msgspec.json.decode(item) for item in page.items)
        return Answer(200, msgspec.json.encode(tabled(call, form, objects, meta)), form.content)
    resource = call.kind.resource
    name, version, items = f"{resource.kind}List", resource.api_version, page.items
    if form.partial:
        name, version = "PartialObjectMetadataList", f"meta.k8s.io/{form.version}"
    if form.binary:
        return Answer(200, await _binary(name, version, meta, items), form.content)
    if form.partial:
        items = [msgspec.json.encode(partial(msgspec.json.decode(item), form)) for item in items]
    head = msgspec.json.encode({"kind": name, "apiVersion": version, "metadata": meta})
    return Answer(200, head[:-1] + b',"items":[' + b",".join(items) + b"]}", form.content)


async def _binary(name: str, version: str, meta: Object, items: list[bytes]) -> bytes:
    """A list in protobuf; other requests are served meanwhile."""
    encode, made = protobuf_out.item_of(version, name), []
    for at, item in enumerate(items, 1):
        made.append(encode(msgspec.json.decode(item)))
        if at % BREATH == 0:
            await asyncio.sleep(0)
    return protobuf_out.joined(version, name, meta, made)


async def page_of(cluster: Cluster, call: Call) -> Page:
    """The objects a list is of."""
    matches = matcher_of(call)
    limit = number(call.query, "limit") or 0
    token = call.query.get("continue", "")
    if token:
        if call.query.get("resourceVersion", "0") not in ("", "0"):
            raise bad_request("specifying resource version is not allowed when using continue")
        revision, start = _read_token(token, call.kind.folder(call.target.namespace))
        return await _later_page(cluster, call, matches, limit, revision, start)
    if call.query.get("resourceVersionMatch") == "Exact":
        revision = number(call.query, "resourceVersion") or 0
        return await _later_page(cluster, call, matches, limit, revision, "")
    return await _first_page(cluster, call, matches, limit)


async def freshen(cluster: Cluster, call: Call) -> None:
    """Let the cache become as new as the call's resourceVersion asks."""
    cache = cluster.cache(call.kind)
    version = number(call.query, "resourceVersion")
    if version is None:
        await cache.ready()
        await cache.fresh()
    elif version == 0:
        await cache.ready()
    else:
        try:
            await cache.wait_for(version)
        except Unreachable:
            text = f"Timeout: Too large resource version: {version}, current: {cache.revision}"
            causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
            raise Refused(504, text, details={"causes": causes, "retryAfterSeconds": 1}) from None


def matcher_of(call: Call) -> Matches | None:
    """The test of the call's selectors."""
    labels = selectors.parse_labels(call.query.get("labelSelector", ""))
    fields = selectors.parse_fields(call.query.get("fieldSelector", ""), call.kind.fields)
    if call.target.name:
        fields = (*fields, selectors.FieldTerm("metadata.name", equal=True, value=call.target.name))
    return selectors.matcher(labels, fields)


async def _first_page(cluster: Cluster, call: Call, matches: Matches | None, limit: int) -> Page:
    await freshen(cluster, call)
    cache, folder = cluster.cache(call.kind), call.kind.folder(call.target.namespace)
    snapshot = cache.snapshot(folder)
    found = [entry for entry in snapshot.entries if matches is None or matches(entry.object)]
    revision = max(snapshot.revision, 1)
    if not limit or len(found) <= limit:
        return Page([entry.data for entry in found], revision)
    remaining = 0 if matches else len(found) - limit
    return Page([entry.data for entry in found[:limit]], revision, _token(revision, found[limit].key, folder), remaining)


async def _later_page(cluster: Cluster, call: Call, matches: Callable[[Object], bool] | None, limit: int, revision: int,
                      start: str) -> Page:
    folder = call.kind.folder(call.target.namespace)
    items: list[bytes] = []
    try:
        while True:
            listing = await cluster.storage.list(folder, revision=revision, limit=limit and limit - len(items), start=start)
            objects = (shown_as(call.kind, obj) for obj in listing.objects)
            items += [msgspec.json.encode(obj) for obj in objects if matches is None or matches(obj)]
            start = listing.next
            if not start or len(items) >= limit:
                break
    except Expired:
        raise expired("The provided continue parameter is too old to display a consistent list result. You can start a new list "
                      "without the continue parameter.") from None
    rest = _token(listing.revision, start, folder) if start else ""
    return Page(items, listing.revision, rest, 0 if matches else listing.remaining)


def _token(revision: int, start: str, folder: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([revision, start.removeprefix(folder)])).decode()


def _read_token(token: str, folder: str) -> tuple[int, str]:
    try:
        revision, start = msgspec.json.decode(base64.urlsafe_b64decode(token.encode()), type=tuple[int, str])
    except (ValueError, msgspec.DecodeError):
        raise bad_request("continue key is not valid") from None
    if not 0 < revision < 2**63:
        raise bad_request("continue key is not valid")
    return revision, folder + start
