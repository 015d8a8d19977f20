"""Two patch formats that need no schema: JSON merge patch (RFC 7386) and JSON patch (RFC 6902).

Both are pure: the object and the patch handed in stay as they were. A patch that does not apply raises Invalid.
Must not know: HTTP, kinds. Read next: `strategic.py`, the third format, which does need the schema.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nodecore.errors import Invalid

Operation = dict[str, Any]
MOST_COPIED = 3 * 1024 * 1024


class TooLarge(Invalid):
    """A patch that would make a small body a large object."""


def merge_patch(target: Any, patch: Any) -> Any:
    """The target with the patch merged in: objects merge, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def json_patch(document: Any, operations: list[Operation]) -> Any:
    """The document after every operation in turn; the first that does not apply raises Invalid and nothing is changed."""
    if not isinstance(operations, list):
        raise Invalid("a JSON patch is a list of operations")
    result, copied = clone(document), 0
    for operation in operations:
        verb = operation.get("op") if isinstance(operation, dict) else None
        if not isinstance(verb, str) or verb not in VERBS:
            raise Invalid(f"JSON patch: unknown operation {verb!r}")
        if verb == "copy":
            copied += weight(_read(result, _pointer(operation, "from")))
            if copied > MOST_COPIED:
                raise TooLarge(f"JSON patch: copies add up to more than {MOST_COPIED} bytes")
        result = VERBS[verb](result, operation)
    return result


def weight(value: Any) -> int:
    """About as many bytes as a value has in JSON."""
    total, todo = 0, [value]
    for each in todo:
        total += len(each) + 8 if isinstance(each, str) else 8
        if isinstance(each, dict):
            total += sum(map(len, each))
            todo.extend(each.values())
        elif isinstance(each, list):
            todo.extend(each)
        if total > MOST_COPIED:
            return total
    return total


def clone(value: Any) -> Any:
    """A deep copy of a JSON value."""
    if isinstance(value, dict):
        return {key: clone(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [clone(inner) for inner in value]
    return value


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 equals 1.0, but true does not equal 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def _pointer(operation: Operation, member: str = "path") -> list[str]:
    text = operation.get(member)
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise Invalid(f"JSON patch: {operation.get('op')} needs a {member!r} that is empty or begins with a slash, not {text!r}")
    return [token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:]]


def _operand(operation: Operation) -> Any:
    if "value" not in operation:
        raise Invalid(f"JSON patch: {operation['op']} {operation.get('path')} needs a value")
    return operation["value"]


def _show(path: list[str]) -> str:
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in path)


def _index(array: list[Any], token: str, path: list[str], *, end: int) -> int:
    if not token.isascii() or not token.isdigit() or (token[0] == "0" and token != "0"):
        raise Invalid(f"JSON patch: {token[:50]!r} in {_show(path)[:200]} is no index of a list")
    if len(token) > len(str(end)) or int(token) >= end:
        raise Invalid(f"JSON patch: index {token[:20]} in {_show(path)[:200]} is out of bounds, the list has {len(array)}")
    return int(token)


def _read(document: Any, path: list[str]) -> Any:
    here = document
    for token in path:
        if isinstance(here, list):
            here = here[_index(here, token, path, end=len(here))]
        elif isinstance(here, dict) and token in here:
            here = here[token]
        else:
            raise Invalid(f"JSON patch: nothing at {_show(path)}")
    return here


def _parent(document: Any, path: list[str]) -> Any:
    holder = _read(document, path[:-1])
    if not isinstance(holder, dict | list):
        raise Invalid(f"JSON patch: {_show(path[:-1])} holds no members")
    return holder


def _insert(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    holder, token = _parent(document, path), path[-1]
    if isinstance(holder, dict):
        holder[token] = value
    elif token == "-":
        holder.append(value)
    else:
        holder.insert(_index(holder, token, path, end=len(holder) + 1), value)
    return document


def _drop(document: Any, path: list[str]) -> Any:
    _read(document, path)
    if not path:
        return None
    holder, token = _parent(document, path), path[-1]
    del holder[token if isinstance(holder, dict) else int(token)]
    return document


def _add(document: Any, operation: Operation) -> Any:
    return _insert(document, _pointer(operation), clone(_operand(operation)))


def _remove(document: Any, operation: Operation) -> Any:
    return _drop(document, _pointer(operation))


def _replace(document: Any, operation: Operation) -> Any:
    path, value = _pointer(operation), clone(_operand(operation))
    _read(document, path)
    if not path:
        return value
    holder, token = _parent(document, path), path[-1]
    holder[token if isinstance(holder, dict) else int(token)] = value
    return document


def _move(document: Any, operation: Operation) -> Any:
    source, target = _pointer(operation, "from"), _pointer(operation)
    if len(source) < len(target) and target[: len(source)] == source:
        raise Invalid(f"JSON patch: cannot move {_show(source)} into itself at {_show(target)}")
    value = _read(document, source)
    return document if source == target else _insert(_drop(document, source), target, value)


def _copy(document: Any, operation: Operation) -> Any:
    return _insert(document, _pointer(operation), clone(_read(document, _pointer(operation, "from"))))


def _test(document: Any, operation: Operation) -> Any:
    path = _pointer(operation)
    if not same(_read(document, path), _operand(operation)):
        raise Invalid(f"JSON patch: testing value {_show(path)} failed")
    return document


VERBS: dict[str, Callable[[Any, Operation], Any]] = {
    "add": _add, "remove": _remove, "replace": _replace, "move": _move, "copy": _copy, "test": _test,
}
