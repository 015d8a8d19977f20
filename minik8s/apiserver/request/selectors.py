"""Label and field selectors: text -> conditions, and whether an object meets them.

Grammar as in the original: `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1`; fields only know = == and !=.
Pure. Must not know: HTTP, storage. Read next: `verbs/watching.py`, `verbs/reading.py`, which filter with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from minik8s.apiserver.request.status import bad_request

Object = dict[str, Any]
Matches = Callable[[Object], bool]

KEY = r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
VALID_VALUE = re.compile(VALUE)
FIELD = re.compile(r"\s*([^=!\s]+?)\s*(==|=|!=)(.*)", re.DOTALL)
TERM = re.compile(
    rf"\s*(?:(?P<no>!)\s*(?P<absent>{KEY})"
    rf"|(?P<key>{KEY})\s*(?:(?P<sign>==|=|!=|>|<)\s*(?P<value>[^,\s()]*)"
    rf"|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?:,|$)")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on a label: operator is one of = != in notin exists absent > <."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: dict[str, str]) -> bool:
        """Whether labels meet it; as in the original, != and notin hold for a label that is not there."""
        value = labels.get(self.key)
        match self.operator:
            case "exists":
                return value is not None
            case "absent":
                return value is None
            case "!=" | "notin":
                return value not in self.values
            case ">" | "<":
                return _compares(value, self.operator, self.values[0])
        return value in self.values


def _compares(value: str | None, sign: str, bound: str) -> bool:
    try:
        number = int(value or "")
    except ValueError:
        return False
    return number > int(bound) if sign == ">" else number < int(bound)


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """Read a label selector, or refuse it."""
    found: list[Requirement] = []
    at = 0
    while text[at:].strip():
        match = TERM.match(text, at)
        if not match or match.end() == at:
            raise bad_request(f"unable to parse requirement: {text[at:at + 100]!r} in label selector")
        found.append(_requirement(match))
        at = match.end()
    if text.rstrip().endswith(","):
        raise bad_request("unable to parse requirement: label selector ends with a comma")
    return tuple(found)


def _requirement(match: re.Match[str]) -> Requirement:
    if match["no"]:
        return Requirement(match["absent"], "absent")
    if match["set"]:
        values = tuple(part.strip() for part in match["values"].split(","))
        return Requirement(match["key"], match["set"], tuple(map(_checked, values)))
    if match["sign"] is None:
        return Requirement(match["key"], "exists")
    sign, value = match["sign"], _checked(match["value"])
    if sign in "<>" and not re.fullmatch(r"-?\d{1,18}", value):
        raise bad_request(f"label selector: {value!r} is not an integer, which {sign} needs")
    return Requirement(match["key"], "=" if sign == "==" else sign, (value,))


def _checked(value: str) -> str:
    if not VALID_VALUE.fullmatch(value):
        raise bad_request(f"label selector: {value[:100]!r} is not a label value")
    return value


@dataclass(frozen=True, slots=True)
class FieldTerm:
    """One condition on a field: equal, or not."""

    path: str
    equal: bool
    value: str


def parse_fields(text: str, known: Sequence[str]) -> tuple[FieldTerm, ...]:
    """Read a field selector over the fields a kind offers, or refuse it."""
    found = []
    for term in _split(text):
        match = FIELD.fullmatch(term)
        if not match:
            raise bad_request(f"invalid selector: {text[:100]!r}; can't understand {term[:100]!r}")
        path = match[1]
        if path not in ("metadata.name", "metadata.namespace") and path not in known:
            raise bad_request(f"field label not supported: {path[:100]}")
        found.append(FieldTerm(path, match[2] != "!=", _unescaped(match[3])))
    return tuple(found)


def demanded(text: str) -> dict[str, str]:
    """The fields a selector wants to have one value, and which: authorization has to read them as the filter does."""
    found = (FIELD.fullmatch(term) for term in _split(text))
    return {match[1]: _unescaped(match[3]) for match in found if match and match[2] != "!="}


def _split(text: str) -> list[str]:
    return [term for term in re.findall(r"(?:[^\\,]|\\.?)+", text, re.DOTALL) if term.strip()]


def _unescaped(value: str) -> str:
    return re.sub(r"\\([\\,=])", r"\1", value)


def escaped(value: str) -> str:
    """A value as a field selector has it."""
    return re.sub(r"([\\,=])", r"\\\1", value)


def field_of(obj: Object, path: str) -> str:
    """A selectable field as text, empty where it is not set."""
    if path == "source":
        return str((obj.get("source") or {}).get("component", ""))
    value: Any = obj
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, bool) or path in ("spec.unschedulable", "spec.hostNetwork"):
        return "true" if value else "false"
    return "" if value is None else str(value)


def matcher(labels: Sequence[Requirement], fields: Sequence[FieldTerm]) -> Matches | None:
    """The test an object must pass, or None when everything passes."""
    if not labels and not fields:
        return None

    def matches(obj: Object) -> bool:
        own = obj["metadata"].get("labels") or {}
        if not all(each.holds(own) for each in labels):
            return False
        return all((field_of(obj, term.path) == term.value) == term.equal for term in fields)

    return matches
