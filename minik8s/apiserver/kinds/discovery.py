"""What the API says it serves: aggregated discovery (v2, v2beta1) and the older documents, from `catalogue.py`.

Pure. Must not know: HTTP, storage. Read next: `catalogue.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.kinds.catalogue import EMPTY_GROUPS, KINDS, REVIEWS, VERBS, Kind, Review, Sub

Body = dict[str, Any]
SERVED: tuple[Kind | Review, ...] = (*KINDS, *REVIEWS)


def group_versions() -> list[tuple[str, str]]:
    """Every group with its version, the core group first."""
    found = [(item.resource.group, item.resource.version) for item in SERVED]
    return sorted(dict.fromkeys([*found, *EMPTY_GROUPS]))


def aggregated(version: str, *, core: bool) -> Body:
    """The answer to /api or /apis for a client that takes all of discovery at once."""
    chosen = [pair for pair in group_versions() if (pair[0] == "") == core]
    items = [_group(group, group_version) for group, group_version in chosen]
    return {"kind": "APIGroupDiscoveryList", "apiVersion": f"apidiscovery.k8s.io/{version}", "metadata": {}, "items": items}


def _group(group: str, version: str) -> Body:
    resources = [_aggregated(item) for item in _members(group, version)]
    meta = {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None}
    return {"metadata": meta, "versions": [{"version": version, "resources": resources, "freshness": "Current"}]}


def _members(group: str, version: str) -> list[Kind | Review]:
    found = [item for item in SERVED if (item.resource.group, item.resource.version) == (group, version)]
    return sorted(found, key=lambda item: item.resource.plural)


def _aggregated(item: Kind | Review) -> Body:
    resource = item.resource
    body: Body = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": item.singular,
        "verbs": list(VERBS if isinstance(item, Kind) else ("create",)),
    }
    if isinstance(item, Kind):
        for key, values in (("shortNames", item.short), ("categories", item.categories)):
            if values:
                body[key] = list(values)
        if item.subresources:
            body["subresources"] = [_aggregated_sub(item, sub) for sub in item.subresources]
    return body


def _aggregated_sub(item: Kind, sub: Sub) -> Body:
    resource = item.resource
    kind = {"group": sub.group or resource.group, "version": sub.version or resource.version, "kind": sub.kind or resource.kind}
    return {"subresource": sub.name, "responseKind": kind, "verbs": list(sub.verbs)}


def versions(address: str) -> Body:
    """The older answer to /api."""
    where = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": where}


def groups() -> Body:
    """The older answer to /apis."""
    named = [group_of(group) for group, _ in group_versions() if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}


def group_of(group: str) -> Body | None:
    """The older answer to /apis/<group>; None for one there is not."""
    found = [{"groupVersion": f"{name}/{version}", "version": version} for name, version in group_versions() if name == group]
    if not found:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": found, "preferredVersion": found[0]}


def resources(group: str, version: str) -> Body | None:
    """The older answer to /api/v1 and /apis/<group>/<version>; None for one there is not."""
    if (group, version) not in group_versions():
        return None
    listed = [entry for item in _members(group, version) for entry in _older(item)]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": listed}


def _older(item: Kind | Review) -> list[Body]:
    resource = item.resource
    body: Body = {"name": resource.plural, "singularName": item.singular, "namespaced": resource.namespaced,
                  "kind": resource.kind, "verbs": list(VERBS if isinstance(item, Kind) else ("create",))}
    if not isinstance(item, Kind):
        return [body]
    if item.short:
        body["shortNames"] = list(item.short)
    if item.categories:
        body["categories"] = list(item.categories)
    return [body, *(_older_sub(item, sub) for sub in item.subresources)]


def _older_sub(item: Kind, sub: Sub) -> Body:
    body: Body = {"name": f"{item.resource.plural}/{sub.name}", "singularName": "", "namespaced": item.resource.namespaced,
                  "kind": sub.kind or item.resource.kind, "verbs": list(sub.verbs)}
    return {**body, "group": sub.group, "version": sub.version} if sub.group else body
