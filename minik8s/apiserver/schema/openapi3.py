"""OpenAPI v3 documents, one per group-version, as kubectl create, apply and explain read them. Pure; builder only.

kubectl looks in `paths` for the PATCH of a kind and whether it takes `fieldValidation` and `dryRun`, in the schemas for
patch strategies and descriptions. Must not know: files. Read next: `openapi2.py`, the older form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from minik8s.apiserver.kinds.catalogue import Sub
from minik8s.apiserver.schema.definitions import GVK_KEY, Definition, by_kind, reach, references, target
from minik8s.apiserver.schema.served import EXTRAS, RESOURCES, SUBRESOURCES, kinds, of_group_version
from nodecore.kube.resource import Resource

OBJECT_META, LIST_META = (f"io.k8s.apimachinery.pkg.apis.meta.v1.{name}" for name in ("ObjectMeta", "ListMeta"))
SCHEMAS = "#/components/schemas/"
WRITE = (("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"))
READ = tuple((name, "string") for name in ("continue", "fieldSelector", "labelSelector", "resourceVersion"))
QUERY = {
    "get": (*READ, ("limit", "integer"), ("watch", "boolean"), ("allowWatchBookmarks", "boolean"), ("timeoutSeconds", "integer")),
    "post": WRITE,
    "put": WRITE,
    "patch": (*WRITE, ("force", "boolean")),
    "delete": (("dryRun", "string"), ("gracePeriodSeconds", "integer"), ("propagationPolicy", "string")),
}
METHODS = {"get": "get", "post": "create", "put": "update", "patch": "patch"}
JSON = "application/json"
STRATEGIC = "application/strategic-merge-patch+json"
PATCHES = (JSON + "-patch+json", "application/merge-patch+json", STRATEGIC, "application/apply-patch+yaml")


def document(definitions: dict[str, Definition], gv: str) -> dict[str, Any]:
    """The whole document of one group-version."""
    group, version = of_group_version(gv)
    known = by_kind(definitions)
    roots = [known[kind] for kind in kinds() if kind[:2] == (group, version) and kind in known]
    urls = dict(paths(group, version, known))
    spoken = [name.removeprefix(SCHEMAS) for name in references(urls)]
    names = reach(definitions, [*roots, *spoken, known["", "v1", "DeleteOptions"]])
    return whole(urls, {name: schema(definitions[name]) for name in names})


def whole(urls: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """A document of these paths and schemas."""
    info = {"title": "Kubernetes", "version": "v1.33.0"}
    return {"openapi": "3.0.0", "info": info, "paths": urls, "components": {"schemas": schemas}}


def shared(definitions: dict[str, Definition]) -> dict[str, Any]:
    """What the documents of custom kinds refer to: their metadata, and what their verbs take and give."""
    known = by_kind(definitions)
    roots = [known[kind] for kind in (("", "v1", "Status"), ("", "v1", "DeleteOptions"), ("autoscaling", "v1", "Scale"))]
    names = reach(definitions, [*roots, OBJECT_META, LIST_META])
    return {name: schema(definitions[name]) for name in names}


def paths(group: str, version: str, known: dict[tuple[str, str, str], str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every URL of the group-version with its operations."""
    for item in RESOURCES:
        if (item.group, item.version) == (group, version):
            yield from of_resource(item, SUBRESOURCES.get(item, ()), known)
    for extra in EXTRAS:
        if extra.path and (extra.group, extra.version) == (group, version):
            gvk = (extra.group, extra.version, extra.kind)
            places = {"namespaced": "{namespace}" in extra.path, "named": "{name}" in extra.path}
            yield extra.path, _operations({extra.method: extra.action}, gvk, known, **places)


def of_resource(
    item: Resource, subresources: Iterable[Sub], known: dict[tuple[str, str, str], str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The URLs of one resource with their operations."""
    gvk = (item.group, item.version, item.kind)
    collection = item.path("{namespace}" if item.namespaced else None)
    whole = {"get": "list", "post": "post", "delete": "deletecollection"}
    yield collection, _operations(whole, gvk, known, namespaced=item.namespaced)
    if item.namespaced:
        yield item.path(), _operations({"get": "list"}, gvk, known)
    one = {"get": "get", "put": "put", "patch": "patch", "delete": "delete"}
    yield collection + "/{name}", _operations(one, gvk, known, namespaced=item.namespaced, named=True)
    for sub in subresources:
        spoken = (sub.group, sub.version or "v1", sub.kind) if sub.kind else gvk
        if spoken in known and sub.name != "log":  # streams have no schema
            part = {method: method for method in METHODS if METHODS[method] in sub.verbs}
            yield f"{collection}/{{name}}/{sub.name}", _operations(part, spoken, known, namespaced=item.namespaced, named=True)


def _operations(
    verbs: dict[str, str], gvk: tuple[str, str, str], known: dict[tuple[str, str, str], str], *,
    namespaced: bool = False, named: bool = False,
) -> dict[str, Any]:
    places = [name for name, wanted in (("namespace", namespaced), ("name", named)) if wanted]
    made: dict[str, Any] = {method: _operation(method, action, gvk, known) for method, action in verbs.items()}
    made["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "uniqueItems": True}} for name in places
    ]
    return made


def _operation(method: str, action: str, gvk: tuple[str, str, str], known: dict[tuple[str, str, str], str]) -> dict[str, Any]:
    group, version, kind = gvk
    answer = (group, version, f"{kind}List") if action == "list" else ("", "v1", "Status") if "delete" in action else gvk
    content = {"content": {JSON: {"schema": {"$ref": SCHEMAS + known[answer]}}}}
    codes = {"200": "OK", **({"201": "Created"} if method in ("post", "put", "patch") else {})}
    made: dict[str, Any] = {
        "parameters": [
            {"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": True}} for name, kind in QUERY[method]
        ],
        "responses": {code: {"description": said, **content} for code, said in codes.items()},
        "x-kubernetes-action": action,
        GVK_KEY: {"group": group, "version": version, "kind": kind},
    }
    if method in ("post", "put"):
        made["requestBody"] = {"required": True, "content": {"*/*": {"schema": {"$ref": SCHEMAS + known[gvk]}}}}
    elif method == "patch":
        body: dict[str, Any] = {form: {"schema": {"type": "object"}} for form in PATCHES}
        body[PATCHES[0]] = {"schema": {"type": "array", "items": {"type": "object"}}}
        made["requestBody"] = {"required": True, "content": body}
    return made


def schema(piece: Definition) -> Definition:
    """A definition in v3 form: references stand alone in an `allOf`, whatever surrounds them."""
    name = target(piece)
    made: Definition = {key: value for key, value in piece.items() if key != "$ref"}
    if name:
        made["allOf"] = [{"$ref": SCHEMAS + name}]
    if "properties" in made:
        made["properties"] = {key: schema(value) for key, value in made["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = schema(made[key])
    return made
