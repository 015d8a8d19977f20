"""The JSON schema definitions that PyPI's kubernetes-validate carries, made into what the original API publishes.

The package adds `null` to types and enums to apiVersion and kind; both are taken out again here. Used by the builder
only: this is the one place that holds the large documents. Read next: `compact.py`, `openapi3.py`, `openapi2.py`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from nodecore.errors import UserError

Definition = dict[str, Any]
RELEASE = "v1.33.0-local"
REFERENCE = "#/$defs/"
GVK_KEY = "x-kubernetes-group-version-kind"


def source() -> Path:
    """The installed package's file; the package itself is not imported."""
    found = importlib.util.find_spec("kubernetes_validate")
    if found is None or not found.origin:
        raise UserError("python package kubernetes-validate is not installed (pip install 'flanneld-py[cluster]')")
    return Path(found.origin).parent / "kubernetes-json-schema" / RELEASE / "_definitions.json"


def load() -> dict[str, Definition]:
    """Every definition by its full name, cleaned."""
    raw = msgspec.json.decode(source().read_bytes())["$defs"]
    return {name: _clean(definition) for name, definition in raw.items()}


def by_kind(definitions: dict[str, Definition]) -> dict[tuple[str, str, str], str]:
    """The definition of each group, version and kind; those of meta/v1 belong to every group and are named for the core one."""
    found: dict[tuple[str, str, str], str] = {}
    for name, definition in definitions.items():
        for gvk in definition.get(GVK_KEY, ()):
            found.setdefault((gvk["group"], gvk["version"], gvk["kind"]), name)
    return found


def reach(definitions: dict[str, Definition], roots: Iterable[str]) -> list[str]:
    """The roots and all they refer to, sorted."""
    todo, seen = list(roots), set[str]()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += references(definitions[name])
    return sorted(seen)


def references(value: Any) -> list[str]:
    """The names of the definitions a piece of schema refers to."""
    if isinstance(value, list):
        return [name for item in value for name in references(item)]
    if not isinstance(value, dict):
        return []
    own = [target(value)] if isinstance(value.get("$ref"), str) else []
    return own + [name for inner in value.values() for name in references(inner)]


def target(schema: Definition) -> str:
    """The name behind a `$ref`, or an empty string."""
    return str(schema.get("$ref", "")).removeprefix(REFERENCE)


def _clean(schema: Definition) -> Definition:
    """One schema without the added nulls and enums; only where a schema stands, so that a field named `type` is left alone."""
    cleaned = {key: value for key, value in schema.items() if key != "enum"}
    kind = cleaned.get("type")
    if isinstance(kind, list):
        cleaned["type"] = next(name for name in kind if name != "null")
    if "properties" in cleaned:
        cleaned["properties"] = {name: _clean(inner) for name, inner in cleaned["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(cleaned.get(key), dict):
            cleaned[key] = _clean(cleaned[key])
    if "oneOf" in cleaned:
        cleaned["oneOf"] = [_clean(inner) for inner in cleaned["oneOf"]]
    return cleaned
