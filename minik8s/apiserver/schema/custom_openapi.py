"""OpenAPI of the kinds that definitions add, made when it is asked for: v3 a group-version, v2 as a part to append.

Only the index is kept, which clients ask for most. Must not know: HTTP. Read next: `openapi3.py`, `openapi2.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from minik8s.apiserver.kinds.kind import Kind
from minik8s.apiserver.schema import cache, openapi2, openapi3
from minik8s.apiserver.schema.definitions import GVK_KEY, REFERENCE

Object = dict[str, Any]
SAID = {"apiVersion": "The version of the schema this object is in.", "kind": "The kind of object this is."}


def gv_of(kind: Kind) -> str:
    """The group-version as the URL of its document names it."""
    return f"apis/{kind.resource.api_version}"


def v3(kinds: Iterable[Kind], gv: str) -> bytes:
    """The document of one group-version; empty where no custom kind is in it."""
    chosen = [kind for kind in kinds if kind.custom and gv_of(kind) == gv]
    if not chosen:
        return b""
    schemas: Object = msgspec.json.decode(cache.openapi_v3_shared())
    urls: Object = {}
    for kind in chosen:
        schemas |= _schemas(kind, openapi3.SCHEMAS)
        urls |= _paths(kind, schemas)
    return msgspec.json.encode(openapi3.whole(urls, schemas))


@lru_cache(maxsize=1)
def v3_index(kinds: tuple[Kind, ...]) -> bytes:
    """The list of all documents, the custom ones among them."""
    custom = dict.fromkeys(gv_of(kind) for kind in kinds if kind.custom)
    index = cache.openapi_v3_index()
    if not custom:
        return index
    found: Object = msgspec.json.decode(index)
    for gv in custom:
        digest = hashlib.sha256(v3(kinds, gv)).hexdigest()[:40].upper()
        found["paths"][gv] = {"serverRelativeURL": f"/openapi/v3/{gv}?hash={digest}"}
    return msgspec.json.encode(found)


def v2(kinds: Iterable[Kind]) -> bytes:
    """The whole of v2, custom kinds at its end."""
    body = cache.openapi_v2_protobuf()
    for kind in kinds:
        if kind.custom:
            schemas = _schemas(kind, REFERENCE)
            shared: Object = msgspec.json.decode(cache.openapi_v3_shared())
            body += openapi2.part(_paths(kind, shared).items(), schemas)
    return body


def _paths(kind: Kind, schemas: Object) -> Object:
    """Where the kind is, and what may be done there: all but strategic merge, which custom kinds do not know."""
    found = dict(openapi3.of_resource(kind.resource, kind.subresources, _known(kind, schemas)))
    for operations in found.values():
        if "patch" in operations:
            operations["patch"]["requestBody"]["content"].pop(openapi3.STRATEGIC)
    return found


def _name(kind: Kind) -> str:
    group = ".".join(reversed(kind.resource.group.split(".")))
    return f"{group}.{kind.resource.version}.{kind.resource.kind}"


def _known(kind: Kind, schemas: Object) -> dict[tuple[str, str, str], str]:
    """The names of the kinds that operations speak of."""
    group, version, name = kind.gvk
    found = {(group, version, name): _name(kind), (group, version, f"{name}List"): f"{_name(kind)}List"}
    for wanted in (("", "v1", "Status"), ("autoscaling", "v1", "Scale")):
        found[wanted] = next(key for key, schema in schemas.items() if any(
            (each["group"], each["version"], each["kind"]) == wanted for each in schema.get(GVK_KEY, ())))
    return found


def _schemas(kind: Kind, reference: str) -> Object:
    assert kind.custom is not None
    group, version, name = kind.gvk
    gvk = {"group": group, "version": version, "kind": name}
    head: Object = {key: {"type": "string", "description": said} for key, said in SAID.items()}
    own = kind.custom.schema
    head["metadata"] = _reference(openapi3.OBJECT_META, reference)
    one = {**own, "properties": {**(own.get("properties") or {}), **head}, GVK_KEY: [gvk]}
    items = {"type": "array", "items": _reference(_name(kind), reference)}
    many = {"type": "object", "required": ["items"], GVK_KEY: [{**gvk, "kind": f"{name}List"}], "properties": {
        **head, "metadata": _reference(openapi3.LIST_META, reference), "items": items}}
    return {_name(kind): one, f"{_name(kind)}List": many}


def _reference(name: str, reference: str) -> Object:
    if reference == REFERENCE:
        return {"$ref": reference + name}
    return {"allOf": [{"$ref": reference + name}], "default": {}}
