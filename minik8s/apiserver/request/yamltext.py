"""YAML bodies -> JSON values, within bounds: read event by event, so that neither nesting nor aliases can blow it up.

Scalars mean what they mean to kubectl: YAML 1.1 without timestamps. `duplicates` are the paths of keys that stand twice in one
mapping; the last one counts. What has tags of its own, or keys that are no scalars, is refused.
Must not know: kinds, HTTP. Read next: `bodies.py`.
"""

from __future__ import annotations

import math
from typing import Any

from minik8s.apiserver.request.status import Refused, bad_request

DEEPEST = 100
MOST_NODES = 200_000
Value = Any
STR = "tag:yaml.org,2002:str"


def read_yaml(body: bytes) -> tuple[Value, list[str]]:
    """The one document of a text, and its duplicate keys; 400 for what cannot be read."""
    import yaml  # a heavy import, for those who send YAML only

    reader = _Reader(yaml)
    try:
        reader.read(body.decode())
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        said = " ".join(str(error).split())[:300]
        raise bad_request(f"error decoding YAML: {said}") from None
    return reader.document, reader.duplicates


class _Reader:
    """Builds the value from events; `_open` holds the collections begun: (value, key waiting for its value, path, anchor)."""

    def __init__(self, yaml: Any) -> None:
        self._yaml = yaml
        self._scalars = yaml.SafeLoader("")
        self._open: list[list[Any]] = []
        self._anchors: dict[str, tuple[Value, int]] = {}
        self._nodes = 0
        self._whole = False
        self.document: Value = None
        self.duplicates: list[str] = []

    def read(self, text: str) -> None:
        """Take in every event of a text."""
        yaml = self._yaml
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.ScalarEvent):
                self._put(self._scalar(event), event.anchor, 1)
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in self._anchors:
                    raise bad_request(f"error decoding YAML: unknown anchor {event.anchor[:50]!r}")
                value, size = self._anchors[event.anchor]
                self._put(value, None, size)
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                self._begin({} if isinstance(event, yaml.MappingStartEvent) else [], event)
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                value, _, _, anchor, before = self._open.pop()
                self._put(value, anchor, 1, self._nodes - before + 1)

    def _begin(self, value: Value, event: Any) -> None:
        if len(self._open) >= DEEPEST:
            raise bad_request(f"the body of the request is nested deeper than {DEEPEST} levels")
        if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise bad_request(f"error decoding YAML: tag {event.tag[:50]!r} is not supported")
        self._open.append([value, None, self._path(), event.anchor, self._nodes])

    def _path(self) -> str:
        if not self._open:
            return ""
        value, key, path, _, _ = self._open[-1]
        if isinstance(value, list):
            return f"{path}[{len(value)}]"
        return f"{path}.{key[0]}" if path and key else key[0] if key else path

    def _put(self, value: Value, anchor: str | None, size: int, of_anchor: int = 1) -> None:
        self._nodes += size
        if self._nodes > MOST_NODES:
            raise Refused(413, "the YAML document is too large once its aliases are resolved")
        if anchor:
            self._anchors[anchor] = (value, of_anchor)
        if not self._open:
            if self._whole:
                raise bad_request("error decoding YAML: the body holds more than one document")
            self.document, self._whole = value, True
            return
        here = self._open[-1]
        holder, key, path = here[0], here[1], here[2]
        if isinstance(holder, list):
            holder.append(value)
        elif key is None:
            here[1] = (_key(value),)
            if here[1][0] in holder:
                self.duplicates.append(f"{path}.{here[1][0]}" if path else here[1][0])
        else:
            holder[key[0]] = value
            here[1] = None

    def _scalar(self, event: Any) -> Value:
        yaml = self._yaml
        tag = event.tag
        if tag in (None, "!"):
            tag = self._scalars.resolve(yaml.ScalarNode, event.value, event.implicit) if tag is None else STR
        node = yaml.ScalarNode(tag, event.value)
        match tag.rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return self._scalars.construct_yaml_bool(node)
            case "int":
                return _whole_number(self._scalars.construct_yaml_int(node))
            case "float":
                found = self._scalars.construct_yaml_float(node)
                if not math.isfinite(found):
                    raise bad_request(f"error decoding YAML: {event.value[:50]!r} is no number of JSON")
                return found
            case "str" | "timestamp" | "value" | "merge":
                return event.value
        raise bad_request(f"error decoding YAML: tag {tag[:50]!r} is not supported")


def _whole_number(value: int) -> int:
    if not -2**63 <= value < 2**63:
        raise bad_request("error decoding YAML: a number does not fit into 64 bits")
    return value


def _key(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise bad_request("error decoding YAML: a key of a mapping is not a scalar")
