"""Which kinds the API knows, and under which paths: what the builder makes tables and OpenAPI documents for.

Pure: read off the catalogue. Must not know: how they are stored or handled. Read next: `definitions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from minik8s.apiserver.kinds.catalogue import KINDS, REVIEWS, Sub
from nodecore.kube.resource import Resource

RESOURCES: tuple[Resource, ...] = tuple(kind.resource for kind in KINDS)
SUBRESOURCES: dict[Resource, tuple[Sub, ...]] = {kind.resource: kind.subresources for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Extra:
    """A kind that is only sent to a verb or a subresource, or only read: with no collection of its own."""

    group: str
    version: str
    kind: str
    path: str = ""
    method: str = "post"
    action: str = "post"


EXTRAS: tuple[Extra, ...] = (
    Extra("", "v1", "Binding", "/api/v1/namespaces/{namespace}/bindings"),
    Extra("", "v1", "ComponentStatus", "/api/v1/componentstatuses", "get", "list"),
    Extra("", "v1", "ComponentStatus", "/api/v1/componentstatuses/{name}", "get", "get"),
    Extra("", "v1", "ComponentStatusList"),
    Extra("", "v1", "Status"),
    Extra("", "v1", "DeleteOptions"),
    Extra("autoscaling", "v1", "Scale"),
    Extra("policy", "v1", "Eviction"),
    Extra("authentication.k8s.io", "v1", "TokenRequest"),
    *(Extra(review.resource.group, review.resource.version, review.resource.kind,
            review.resource.path("{namespace}" if review.resource.namespaced else None))
      for review in REVIEWS),
)


def kinds() -> list[tuple[str, str, str]]:
    """Every (group, version, kind), lists of collections included."""
    named = [(item.group, item.version, item.kind) for item in RESOURCES]
    lists = [(group, version, f"{kind}List") for group, version, kind in named]
    return [*named, *lists, *dict.fromkeys((extra.group, extra.version, extra.kind) for extra in EXTRAS)]


def group_versions() -> list[str]:
    """Each group-version as the OpenAPI v3 URL names it: `api/v1`, `apis/apps/v1` ..."""
    pairs = dict.fromkeys((group, version) for group, version, _ in kinds())
    return [f"apis/{group}/{version}" if group else f"api/{version}" for group, version in pairs]


def of_group_version(gv: str) -> tuple[str, str]:
    """The reverse: group and version."""
    parts = gv.split("/")
    return ("", parts[1]) if parts[0] == "api" else (parts[1], parts[2])
