"""Request bodies: bytes -> a JSON object of bounded size and depth, whatever was sent.

JSON, YAML and Kubernetes' protobuf are understood. Must not know: kinds, HTTP's machinery. Read next: `kinds/fitting.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from minik8s.apiserver import schema
from minik8s.apiserver.request.negotiation import PROTOBUF
from minik8s.apiserver.request.status import Refused, bad_request
from minik8s.apiserver.request.yamltext import read_yaml
from minik8s.apiserver.schema.validation import DUPLICATE, FieldError
from nodecore.errors import Invalid

Object = dict[str, Any]
LARGEST = 3 * 1024 * 1024
DEEPEST = 100
YAML = "application/yaml"
JSON_TYPES = ("", "application/json", "*/*")


def decode(body: bytes, content: str) -> Object:
    """The object in a body; refuses other content types (415), what is no object, and what is too deep."""
    media = content.partition(";")[0].strip().lower()
    if media == PROTOBUF:
        try:
            found = schema.decode_protobuf(body)
        except Invalid as error:
            raise bad_request(str(error)) from None
        bounded(found)
    elif media == YAML:
        found, _ = read_yaml(body)
        bounded(found)
    elif media in JSON_TYPES:
        found = decode_json(body)
    else:
        raise unsupported(media)
    if not isinstance(found, dict):
        raise bad_request("the body of the request is not a JSON object")
    return found


def twice(body: bytes, content: str, found: Any = None) -> list[FieldError]:
    """The fields that a body names twice in one object; protobuf has no such thing. `found`: the body, read already."""
    media = content.partition(";")[0].strip().lower()
    if media == PROTOBUF:
        return []
    if media == YAML:
        return [FieldError(DUPLICATE, path, f'duplicate field "{path}"') for path in read_yaml(body)[1]]
    return schema.duplicates(body, found)


def sections(obj: Object, *names: str) -> None:
    """Refuse an object of which one of these parts is there and no object; null counts as absent."""
    for name in names:
        if obj.get(name) is None:
            obj.pop(name, None)
        elif not isinstance(obj[name], dict):
            raise bad_request(f"{name} is not an object")


def unsupported(media: str) -> Refused:
    """Not a content type we read."""
    return Refused(415, f"the body of the request was in an unknown format - accepted media types include: application/json, "
                        f"{YAML}, {PROTOBUF} (not {media[:100]})")


def decode_json(body: bytes) -> Any:
    """Any JSON value within bounds."""
    try:
        found = msgspec.json.decode(body)
    except RecursionError:
        raise too_deep() from None
    except (msgspec.DecodeError, ValueError) as error:
        raise bad_request(f"the body of the request is not JSON: {error}") from None
    bounded(found)
    return found


def too_deep() -> Refused:
    """Deeper than any object of ours."""
    return bad_request(f"the body of the request is nested deeper than {DEEPEST} levels")


def bounded(value: Any) -> None:
    """Refuse what is nested too deep or holds numbers that cannot be stored."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise too_deep()
        following: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                following.extend(item.values())
            elif isinstance(item, list):
                following.extend(item)
            elif isinstance(item, int) and not -2**63 <= item < 2**63:
                raise bad_request(f"the number {str(item)[:40]} does not fit into 64 bits")
        level = following
