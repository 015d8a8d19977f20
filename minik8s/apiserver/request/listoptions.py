"""What a list or watch asks for beside selectors: how new, how many, from where on; combinations that make no sense are refused.

    resourceVersion        resourceVersionMatch   list                          list with limit
    missing                -                      as new as etcd                the same
    0                      -, NotOlderThan        what is at hand               the same
    n                      -                      not older than n              exactly n
    n                      NotOlderThan           not older than n              the same
    n                      Exact                  exactly n                     the same

A watch knows resourceVersionMatch only together with sendInitialEvents. Pure. Read next: `verbs/reading.py`, `verbs/watching.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from minik8s.apiserver.request.routes import truthy
from minik8s.apiserver.request.status import Cause, bad_request, invalid

EXACT, NOT_OLDER = "Exact", "NotOlderThan"


@dataclass(frozen=True, slots=True)
class ListOptions:
    """The options of one request; `version` is None where none is given, `initial` where sendInitialEvents is not said."""

    version: int | None = None
    exact: bool = False
    limit: int = 0
    token: str = ""
    initial: bool | None = None
    bookmarks: bool = False
    seconds: int = 0


def number(query: Mapping[str, str], name: str) -> int | None:
    """A whole number of the query, if it is there."""
    text = query.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise bad_request(f"{name}: {text[:50]!r} is not a whole number")
    return int(text)


def list_options(query: Mapping[str, str], *, watch: bool) -> ListOptions:
    """Read them."""
    text = query.get("sendInitialEvents", "")
    initial = truthy(text) if text else None
    problems = _of_watch(query) if watch else _of_list(query)
    if problems:
        raise invalid("ListOptions", "meta.k8s.io", "", problems)
    version, token, limit = number(query, "resourceVersion"), query.get("continue", ""), number(query, "limit") or 0
    if token and version and not watch:
        raise bad_request("specifying resource version is not allowed when using continue")
    match = query.get("resourceVersionMatch", "")
    exact = match == EXACT or bool(version and limit and not match)
    seconds = number(query, "timeoutSeconds") or 0
    return ListOptions(version, exact and not watch, limit, token, initial, truthy(query.get("allowWatchBookmarks", "")), seconds)


def _of_list(query: Mapping[str, str]) -> list[Cause]:
    found = []
    if match := query.get("resourceVersionMatch", ""):
        if not query.get("resourceVersion"):
            found.append(_forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"))
        if query.get("continue"):
            found.append(_forbidden("resourceVersionMatch is forbidden when continue is provided"))
        if match not in (EXACT, NOT_OLDER):
            found.append(_unsupported(match, f'"{EXACT}", "{NOT_OLDER}", ""'))
        if match == EXACT and query.get("resourceVersion") == "0":
            found.append(_forbidden('resourceVersionMatch "exact" is forbidden for resourceVersion "0"'))
    if query.get("sendInitialEvents"):
        found.append(_forbidden("sendInitialEvents is forbidden for list", "sendInitialEvents"))
    return found


def _of_watch(query: Mapping[str, str]) -> list[Cause]:
    found = []
    match, initial = query.get("resourceVersionMatch", ""), query.get("sendInitialEvents", "")
    if initial and match != NOT_OLDER:
        found.append(_forbidden(f"sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER}"))
    if match:
        if not initial:
            found.append(_forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"))
        if match != NOT_OLDER:
            found.append(_unsupported(match, f'"{NOT_OLDER}"'))
        if query.get("continue"):
            found.append(_forbidden("resourceVersionMatch is forbidden when continue is provided"))
    return found


def _forbidden(why: str, field: str = "resourceVersionMatch") -> Cause:
    return Cause(field, f"Forbidden: {why}", "FieldValueForbidden")


def _unsupported(match: str, known: str) -> Cause:
    why = f'Unsupported value: "{match[:50]}": supported values: {known}'
    return Cause("resourceVersionMatch", why, "FieldValueNotSupported")
