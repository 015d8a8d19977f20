"""What the API knows of its objects' shapes: the face of the package, everything behind it loads at first use.

Pure over files the builder leaves in a cache directory: `prepare` names it and, when it is missing or stale, runs
`python -m minik8s.apiserver.schema.build` once (a child, so that the 60 MB of JSON schema never live here).
Must not know: HTTP, storage. Read next: `cache.py`, then `shapes.py`.
"""

from __future__ import annotations

from minik8s.apiserver.schema.cache import openapi_v2_protobuf, openapi_v3, openapi_v3_index, prepare, shapes
from minik8s.apiserver.schema.patch import json_patch, merge_patch
from minik8s.apiserver.schema.shapes import GVK

__all__ = [
    "GVK", "json_patch", "merge_patch", "openapi_v2_protobuf", "openapi_v3", "openapi_v3_index", "prepare", "strategic_merge",
]


def strategic_merge(obj: dict[str, object], patch: dict[str, object], gvk: tuple[str, str, str]) -> dict[str, object]:
    """The object with a strategic merge patch applied by the rules of its kind; Invalid if it does not apply."""
    from minik8s.apiserver.schema import strategic

    return strategic.strategic_merge(shapes(), gvk, obj, patch)
