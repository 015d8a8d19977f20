"""What an API server serves, by its own account: the documents every version of Kubernetes has (`/api/v1`, `/apis`, ...).

    for each in await served(client): each.resource, each.verbs

Of each group the preferred version; subresources are left out. Raises what `KubeClient` raises, also when one group cannot
be asked: whoever decides by absence must not decide on half an answer.
Must not know: what the kinds are for. Read next: `nodecore/kube/client.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from nodecore.errors import Invalid
from nodecore.kube.client import KubeClient
from nodecore.kube.resource import Resource


@dataclass(frozen=True, slots=True)
class Served:
    """A resource, what may be done with it, and whether it has a `scale`."""

    resource: Resource
    verbs: frozenset[str]
    scaled: bool = False


async def served(client: KubeClient) -> list[Served]:
    """Every resource of the API."""
    groups = (await _document(client, "/apis")).get("groups") or []
    versions = ["v1", *(group["preferredVersion"]["groupVersion"] for group in groups)]
    found: list[Served] = []
    for name in versions:
        document = await _document(client, f"/apis/{name}" if "/" in name else f"/api/{name}")
        group, _, version = name.rpartition("/")
        names = {entry["name"] for entry in document.get("resources") or []}
        for entry in document.get("resources") or []:
            if "/" not in entry["name"]:
                resource = Resource(group, version, entry["name"], entry["kind"], namespaced=bool(entry.get("namespaced")))
                found.append(Served(resource, frozenset(entry.get("verbs") or ()), f"{entry['name']}/scale" in names))
    return found


async def _document(client: KubeClient, path: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(await client.raw(path), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Invalid(f"API {path}: {error}") from None
