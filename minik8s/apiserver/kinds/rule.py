"""What rules are made of: each is a function from an object (or from the old and the new one) to what is wrong with it.

    required("spec.provisioner")      one_of("spec.concurrencyPolicy", "Allow", "Forbid")      frozen("spec.selector")

Pure and total. Must not know: kinds. Read next: `paths.py`, `rules.py`, the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from minik8s.apiserver.kinds import causes
from minik8s.apiserver.kinds.paths import Object, holders
from minik8s.apiserver.request.status import Cause

Rule = Callable[[Object], Iterator[Cause]]
Change = Callable[[Object, Object], Iterator[Cause]]


def required(*paths: str) -> Rule:
    """There must be something."""
    def check(obj: Object) -> Iterator[Cause]:
        for path in paths:
            for holder, name, where in holders(obj, path):
                if holder.get(name) in (None, "", [], {}):
                    yield causes.required(where)

    return check


def one_of(path: str, *known: str) -> Rule:
    """One of the values there are, where there is one."""
    def check(obj: Object) -> Iterator[Cause]:
        for holder, name, where in holders(obj, path):
            if holder.get(name) is not None:
                yield from causes.one_of(where, holder[name], known)

    return check


def at_least(bound: int, *paths: str) -> Rule:
    """A number that is not smaller than this."""
    def check(obj: Object) -> Iterator[Cause]:
        for path in paths:
            for holder, name, where in holders(obj, path):
                value = holder.get(name)
                if isinstance(value, int) and value < bound:
                    words = f"must be greater than or equal to {bound}" if bound != 1 else "must be greater than 0"
                    yield causes.wrong(where, value, words)

    return check


def between(least: int, most: int, *paths: str) -> Rule:
    """A number that is within these bounds."""
    def check(obj: Object) -> Iterator[Cause]:
        for path in paths:
            for holder, name, where in holders(obj, path):
                value = holder.get(name)
                if isinstance(value, int) and not least <= value <= most:
                    yield causes.wrong(where, value, f"must be between {least} and {most}, inclusive")

    return check


def labels(*paths: str) -> Rule:
    """Sound labels, or a selector's."""
    def check(obj: Object) -> Iterator[Cause]:
        for path in paths:
            for holder, name, where in holders(obj, path):
                yield from causes.labels(where, holder.get(name))

    return check


def named(path: str, check_name: Callable[[str, Any], Iterator[Cause]]) -> Rule:
    """A name of this sort, where there is one."""
    def check(obj: Object) -> Iterator[Cause]:
        for holder, name, where in holders(obj, path):
            if holder.get(name):
                yield from check_name(where, holder[name])

    return check


def frozen(*paths: str, why: str = "field is immutable") -> Change:
    """Stays what it was made."""
    def check(old: Object, new: Object) -> Iterator[Cause]:
        for path in paths:
            before = next((holder.get(name) for holder, name, _ in holders(old, path)), None)
            after = next((holder.get(name) for holder, name, _ in holders(new, path)), None)
            if before != after:
                yield causes.wrong(path, after, why)

    return check


def only(path: str, fields: tuple[str, ...], why: str) -> Change:
    """Of the object there, these fields alone may change."""
    def check(old: Object, new: Object) -> Iterator[Cause]:
        before, after = ({key: value for key, value in (obj.get(path) or {}).items() if key not in fields and value is not None}
                         for obj in (old, new))
        if before != after:
            yield causes.forbidden(path, why)

    return check
