"""What the API says it serves: aggregated discovery (v2, v2beta1) and the older documents, from the kinds handed in.

Pure. Must not know: HTTP, storage. Read next: `catalogue.py`, `registry.py`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from minik8s.apiserver.kinds.catalogue import EMPTY_GROUPS, Kind, Review, Sub

Body = dict[str, Any]
Members = Sequence[Kind | Review]
VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")
STAGES = {None: 2, "beta": 1, "alpha": 0}


def rank(version: str) -> tuple[int, int, int, str]:
    """How far ahead of others a version of one group is: v2, v1, v2beta1, v1beta2, v1alpha1, and then the rest by name."""
    match = VERSION.fullmatch(version)
    if not match:
        return (-1, 0, 0, version)
    return (STAGES[match[2]], int(match[1]), int(match[3] or 0), "")


def group_versions(members: Members) -> dict[str, list[str]]:
    """Every group with its versions, the core group first, the preferred version first."""
    found: dict[str, set[str]] = {}
    for group, version in (*((item.resource.group, item.resource.version) for item in members), *EMPTY_GROUPS):
        found.setdefault(group, set()).add(version)
    return {group: sorted(found[group], key=rank, reverse=True) for group in sorted(found)}


def aggregated(members: Members, version: str, *, core: bool) -> Body:
    """The answer to /api or /apis for a client that takes all of discovery at once."""
    items = [_group(members, group, versions) for group, versions in group_versions(members).items() if (group == "") == core]
    return {"kind": "APIGroupDiscoveryList", "apiVersion": f"apidiscovery.k8s.io/{version}", "metadata": {}, "items": items}


def _group(members: Members, group: str, versions: Sequence[str]) -> Body:
    meta = {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None}
    return {"metadata": meta, "versions": [
        {"version": version, "resources": [_aggregated(item) for item in _of(members, group, version)], "freshness": "Current"}
        for version in versions]}


def _of(members: Members, group: str, version: str) -> list[Kind | Review]:
    found = [item for item in members if (item.resource.group, item.resource.version) == (group, version)]
    return sorted(found, key=lambda item: item.resource.plural)


def _aggregated(item: Kind | Review) -> Body:
    resource = item.resource
    body: Body = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": item.singular,
        "verbs": list(item.verbs if isinstance(item, Kind) else ("create",)),
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


def groups(members: Members) -> Body:
    """The older answer to /apis."""
    named = [group_of(members, group) for group in group_versions(members) if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}


def group_of(members: Members, group: str) -> Body | None:
    """The older answer to /apis/<group>; None for one there is not."""
    served = group_versions(members).get(group)
    if not served or not group:
        return None
    found = [{"groupVersion": f"{group}/{version}", "version": version} for version in served]
    return {"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": found, "preferredVersion": found[0]}


def resources(members: Members, group: str, version: str) -> Body | None:
    """The older answer to /api/v1 and /apis/<group>/<version>; None for one there is not."""
    if version not in group_versions(members).get(group, ()):
        return None
    listed = [entry for item in _of(members, group, version) for entry in _older(item)]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": listed}


def _older(item: Kind | Review) -> list[Body]:
    resource = item.resource
    body: Body = {"name": resource.plural, "singularName": item.singular, "namespaced": resource.namespaced,
                  "kind": resource.kind, "verbs": list(item.verbs if isinstance(item, Kind) else ("create",))}
    if not isinstance(item, Kind):
        return [body]
    if item.short:
        body["shortNames"] = list(item.short)
    if item.categories:
        body["categories"] = list(item.categories)
    body["storageVersionHash"] = storage_hash(*item.stored.gvk)
    return [body, *(_older_sub(item, sub) for sub in item.subresources)]


def storage_hash(group: str, version: str, kind: str) -> str:
    """Tells clients when the version changes in which objects are kept."""
    return base64.b64encode(sha256(f"{group}/{version}/{kind}".encode()).digest()[:8]).decode()


def _older_sub(item: Kind, sub: Sub) -> Body:
    body: Body = {"name": f"{item.resource.plural}/{sub.name}", "singularName": "", "namespaced": item.resource.namespaced,
                  "kind": sub.kind or item.resource.kind, "verbs": list(sub.verbs)}
    return {**body, "group": sub.group, "version": sub.version} if sub.group else body
