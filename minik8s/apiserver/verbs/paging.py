"""Which objects a list is of, at which revision, and the token for the rest.

A list is read from the watch cache, made as fresh as the client asks; an exact revision and later pages are read from etcd as it
was then. Once that is compacted away the token is refused (410), with one in the answer that goes on from there with what is now.
Must not know: HTTP's machinery, forms. Read next: `request/listoptions.py`, `storage/watchcache.py`.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import Any

import msgspec

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.converting import shown as shown_as
from minik8s.apiserver.request import selectors
from minik8s.apiserver.request.call import Call
from minik8s.apiserver.request.listoptions import ListOptions, list_options
from minik8s.apiserver.request.selectors import Matches
from minik8s.apiserver.request.status import Refused, bad_request, expired
from minik8s.apiserver.storage.watchcache_window import Entry
from nodecore.errors import Expired, Invalid, Unreachable

Object = dict[str, Any]
BREATH = 200
FROM_NOW = -1  # as a token's revision: go on with what there is now
TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the "
    "continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with "
    "the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the "
    "first chunk was returned and now may show up in the list.")


@dataclass(slots=True)
class Page:
    """A list or a part of it: encoded objects, the revision they stand at, and the token for the rest."""

    items: list[bytes]
    revision: int
    rest: str = ""
    remaining: int = 0


async def page_of(cluster: Cluster, call: Call) -> Page:
    """The objects a list is of."""
    matches, options = matcher_of(call), list_options(call.query, watch=False)
    if options.token:
        revision, start = _read_token(options.token, call.kind.folder(call.target.namespace))
        return await _at(cluster, call, matches, options, 0 if revision == FROM_NOW else revision, start)
    if options.exact:
        return await _at(cluster, call, matches, options, options.version or 0, "")
    return await _first_page(cluster, call, matches, options)


async def freshen(cluster: Cluster, call: Call, version: int | None) -> None:
    """Let the cache become as new as a resourceVersion asks: None for as new as etcd, 0 for no matter how old."""
    cache = cluster.cache(call.kind)
    await cache.ready()
    if version is None:
        await cache.fresh()
    elif version:
        try:
            await cache.wait_for(version)
        except Unreachable:
            raise too_large(version, cache.revision) from None


def too_large(version: int, current: int) -> Refused:
    """A revision that is still to come."""
    text = f"Timeout: Too large resource version: {version}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return Refused(504, text, details={"causes": causes, "retryAfterSeconds": 1})


def matcher_of(call: Call) -> Matches | None:
    """The test of the call's selectors."""
    labels = selectors.parse_labels(call.query.get("labelSelector", ""))
    fields = selectors.parse_fields(call.query.get("fieldSelector", ""), call.kind.fields)
    return selectors.matcher(labels, fields)


async def _first_page(cluster: Cluster, call: Call, matches: Matches | None, options: ListOptions) -> Page:
    await freshen(cluster, call, options.version)
    cache, folder, limit = cluster.cache(call.kind), call.kind.folder(call.target.namespace), options.limit
    snapshot = cache.snapshot(folder)
    found = snapshot.entries if matches is None else await _chosen(snapshot.entries, matches)
    revision = max(snapshot.revision, 1)
    if not limit or len(found) <= limit:
        return Page([entry.data for entry in found], revision)
    remaining = 0 if matches else len(found) - limit
    return Page([entry.data for entry in found[:limit]], revision, _token(revision, found[limit].key, folder), remaining)


async def _chosen(entries: list[Entry], matches: Matches) -> list[Entry]:
    """Those that match; other requests are served meanwhile."""
    found: list[Entry] = []
    for at in range(0, len(entries), BREATH):
        if at:
            await asyncio.sleep(0)
        found += [entry for entry in entries[at:at + BREATH] if matches(entry.object)]
    return found


async def _at(cluster: Cluster, call: Call, matches: Matches | None, options: ListOptions, revision: int, start: str) -> Page:
    """What there was at a revision (0: is now), from a key on."""
    folder, limit = call.kind.folder(call.target.namespace), options.limit
    items: list[bytes] = []
    try:
        while True:
            listing = await cluster.storage.list(folder, revision=revision, limit=limit and limit - len(items), start=start)
            revision = listing.revision
            objects = (shown_as(call.kind, obj) for obj in listing.objects)
            items += [msgspec.json.encode(obj) for obj in objects if matches is None or matches(obj)]
            start = listing.next
            if not start or len(items) >= limit:
                break
    except Expired:
        if not options.token:
            raise expired("The resourceVersion for the provided list is too old.") from None
        raise Refused(410, TOO_OLD, metadata={"continue": _token(FROM_NOW, start, folder)}) from None
    except Invalid:
        current = await cluster.etcd.revision()
        if revision > current:
            raise too_large(revision, current) from None
        raise
    rest = _token(revision, start, folder) if start else ""
    return Page(items, revision, rest, 0 if matches else listing.remaining)


def _token(revision: int, start: str, folder: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([revision, start.removeprefix(folder)])).decode()


def _read_token(token: str, folder: str) -> tuple[int, str]:
    try:
        revision, start = msgspec.json.decode(base64.urlsafe_b64decode(token.encode()), type=tuple[int, str])
    except (ValueError, msgspec.DecodeError):
        raise bad_request("continue key is not valid") from None
    if not (0 < revision < 2**63 or revision == FROM_NOW):
        raise bad_request("continue key is not valid")
    return revision, folder + start
