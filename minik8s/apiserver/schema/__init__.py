"""What the API knows of its objects' shapes: the face of the package.

The tables behind it are read at first use from files the builder leaves in a cache directory: `prepare` names the
directory and, when it is missing or stale, runs `python -m minik8s.apiserver.schema.build` once (a child, so that the
large JSON schema never lives here). Errors are Invalid and NotFound of nodecore.errors.
Must not know: HTTP, storage. Read next: `cache.py`, then `shapes.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.schema import custom_shapes, pruning, strategic, validation
from minik8s.apiserver.schema.cache import (
    OPENAPI_V2_TYPE,
    openapi_v2_protobuf,
    openapi_v3,
    openapi_v3_index,
    prepare,
    shapes,
)
from minik8s.apiserver.schema.patch import json_patch, merge_patch
from minik8s.apiserver.schema.protobuf import decode_protobuf
from minik8s.apiserver.schema.shapes import GVK
from minik8s.apiserver.schema.tables import table
from minik8s.apiserver.schema.validation import FieldError, duplicates, refusal

__all__ = [
    "GVK", "OPENAPI_V2_TYPE", "FieldError", "decode_protobuf", "duplicates", "forget", "json_patch", "learn", "merge_patch",
    "openapi_v2_protobuf", "openapi_v3", "openapi_v3_index", "prepare", "prune", "refusal", "settle", "strategic_merge",
    "table", "validate",
]


def strategic_merge(obj: dict[str, Any], patch: dict[str, Any], gvk: tuple[str, str, str]) -> dict[str, Any]:
    """The object with a strategic merge patch applied by the rules of its kind; Invalid if it does not apply."""
    return strategic.strategic_merge(shapes(), gvk, obj, patch)


def validate(gvk: tuple[str, str, str], obj: dict[str, Any]) -> list[FieldError]:
    """What does not fit the kind; `refusal` makes the 400 of it, the `required` ones are causes of a 422."""
    return validation.validate(shapes(), gvk, obj)


def learn(gvk: tuple[str, str, str], definition: dict[str, Any]) -> None:
    """From now on know a custom kind by its definition's schema."""
    custom_shapes.learn(shapes(), GVK(*gvk), definition)


def forget(gvk: tuple[str, str, str]) -> None:
    """Know a custom kind no more."""
    custom_shapes.forget(shapes(), GVK(*gvk))


def prune(gvk: tuple[str, str, str], obj: dict[str, Any]) -> None:
    """Drop from the object what its kind does not know."""
    pruning.prune(shapes(), gvk, obj)


def settle(gvk: tuple[str, str, str], obj: dict[str, Any]) -> None:
    """Put zero values where lists and maps of the object hold nulls, and write amounts as the API does."""
    pruning.settle(shapes(), gvk, obj)
