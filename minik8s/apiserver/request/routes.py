"""URL -> what is meant: a pure, total parser; whatever it cannot read is None (404).

    /api/v1/namespaces/default/pods/web/log   ->  Target("", "v1", "pods", "default", "web", "log")

Segments are split before they are decoded, so that no `%2F` or `..` can make one URL mean another.
Must not know: HTTP, which kinds there are (only that namespaces hold the others). Read next: `kinds/catalogue.py`, `handler.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote

LONGEST = 4096
PROXY_LENGTHS = (6, 8)  # of /api/v1/nodes/NAME/proxy and /api/v1/namespaces/NAMESPACE/PLURAL/NAME/proxy, split
NAMESPACE_SUBS = frozenset({"status", "finalize"})


@dataclass(frozen=True, slots=True)
class Target:
    """A collection, an object or a subresource; empty strings where the URL names none."""

    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""  # of a proxy's URL, as it came


def segments(path: str) -> list[str] | None:
    """The decoded parts of a raw path, or None for one that is empty, dotted, or would decode into a separator."""
    if not path.startswith("/") or len(path) > LONGEST:
        return None
    parts = [unquote(part, errors="replace") for part in path[1:].removesuffix("/").split("/")]
    if any(part in ("", ".", "..") or not part.isprintable() or "/" in part or "\\" in part or "%" in part for part in parts):
        return None
    return parts


def parse(path: str) -> Target | None:
    """What a raw path below /api or /apis names; None for discovery paths and for anything unreadable."""
    raw = path.split("/")
    for length in PROXY_LENGTHS:
        if len(raw) > length and raw[length - 1] == "proxy" and raw[1:4] in (["api", "v1", "nodes"], ["api", "v1", "namespaces"]):
            found = _parse("/".join(raw[:length]))
            if found and found.subresource == "proxy":
                return replace(found, rest="/" + "/".join(raw[length:])) if _harmless(raw[length:]) else None
    return _parse(path)


def _harmless(raw: list[str]) -> bool:
    """Whether a path can be handed on: one line of text that leads nowhere but down."""
    return all(part.isascii() and part.isprintable() and " " not in part and unquote(part) not in (".", "..") for part in raw)


def _parse(path: str) -> Target | None:
    parts = segments(path)
    if not parts:
        return None
    if parts[0] == "api" and len(parts) > 2:
        return _resource("", parts[1], parts[2:])
    if parts[0] == "apis" and len(parts) > 3:
        return _resource(parts[1], parts[2], parts[3:])
    return None


def _resource(group: str, version: str, rest: list[str]) -> Target | None:
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and not (group == "" and len(rest) == 3 and rest[2] in NAMESPACE_SUBS):
        namespace, rest = rest[1], rest[2:]
    if len(rest) > 3:
        return None
    plural, name, subresource = (*rest, "", "")[:3]
    return Target(group, version, plural, namespace, name, subresource)


def verb(method: str, target: Target, query: Mapping[str, str]) -> str:
    """The API verb of a request, as authorization and discovery name it; empty for a method there is none for."""
    if method in ("GET", "HEAD"):
        if target.name:
            return "get"
        return "watch" if truthy(query.get("watch", "")) else "list"
    if method == "DELETE":
        return "delete" if target.name else "deletecollection"
    return {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(method, "")


def truthy(text: str) -> bool:
    """A boolean of a query string."""
    return text.lower() in ("1", "t", "true")
