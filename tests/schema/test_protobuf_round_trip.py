"""Every kind the API serves, made up at random by its schema: JSON to protobuf and back is the same object."""

from __future__ import annotations

import base64
import random
import struct
from typing import Any

import pytest

from minik8s.apiserver.schema.cache import shapes
from minik8s.apiserver.schema.protobuf import decode_protobuf, table
from minik8s.apiserver.schema.protobuf_out import envelope, item_of, joined, known, watch_frame
from minik8s.apiserver.schema.served import kinds
from minik8s.apiserver.schema.shapes import Field
from nodecore.errors import Invalid

DEEPEST = 9
JSON_ONLY = {"JSONSchemaProps": {"items": {"type": "string"}, "additionalProperties": True, "additionalItems": False,
                                 "dependencies": {"a": ["b"]}},
             "CustomResourceSubresources": {"status": {}}}


def fields_of(name: str) -> set[str]:
    """The JSON names a message numbers, those of embedded structs too."""
    found: set[str] = set()
    for line in table()[name].values():
        field, _, kind = line.partition(" ")
        found |= fields_of(kind[1:]) if kind.startswith("<") else {field}
    return found


class Maker:
    """Random objects of a shape; no zeros but where JSON keeps them."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.shapes = shapes()

    def object(self, name: str, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        numbered = fields_of(name)
        special = JSON_ONLY.get(name.rpartition(".")[2], {})
        for key, field in self.shapes.types[name].fields.items():
            if key in ("apiVersion", "kind") and key not in numbered:
                continue  # said by the envelope
            if key in special:
                made[key] = special[key]
            elif depth < DEEPEST and self.dice.random() < (0.9 if depth < 3 else 0.4):
                made[key] = self.value(field, depth + 1)
        return {key: value for key, value in made.items() if value not in ([], {})}

    def value(self, field: Field, depth: int) -> Any:
        dice = self.dice
        match field.type:
            case "list":
                return [self.value(field.item, depth) for _ in range(dice.randint(1, 2))] if field.item else []
            case "map":
                item = field.item or Field("string")
                return {f"k{number}": self.value(item, depth) for number in range(dice.randint(1, 2))}
            case "string":
                return dice.choice(["x", "ünï", "a" * 200])
            case "bytes":
                return base64.b64encode(dice.randbytes(dice.randint(1, 300))).decode()
            case "int32":
                return dice.choice([1, 127, 128, 5000, 2**31 - 1, -1])
            case "int64":
                return dice.choice([1, 2**40, 2**63 - 1, -(2**63)])
            case "number":
                return dice.choice([0.5, -2.25, 1e300])
            case "boolean":
                return True
            case "time":
                return dice.choice(["2026-11-21T10:00:00Z", "1969-12-31T23:59:59Z", "2026-11-21T10:00:00.123456Z"])
            case "quantity":
                return dice.choice(["100m", "1Gi", "0"])
            case "intorstring":
                return dice.choice([80, 0, "http", "25%"])
            case "any":
                return {"free": [1, {"x": None}]}
        return self.object(field.type, depth)


KINDS = [kind for kind in kinds() if kind[2] not in ("DeleteOptions",)]


@pytest.fixture(autouse=True)
def _cache(cache: Any) -> None:
    """The schema is there."""


@pytest.mark.parametrize("gvk", KINDS, ids="/".join)
def test_every_kind_there_and_back(gvk: tuple[str, str, str]) -> None:
    group, version, kind = gvk
    api_version = f"{group}/{version}" if group else version
    assert known(api_version, kind), "no field numbers"
    for seed in range(6):
        obj = {"apiVersion": api_version, "kind": kind, **Maker(seed).object(shapes().kinds["/".join(gvk)], 0)}
        made = decode_protobuf(envelope(obj))
        assert _tidy(made) == _tidy(obj)


def _tidy(value: Any) -> Any:
    """Empty messages count as none, as some are embedded in others."""
    if isinstance(value, dict):
        inner = {key: _tidy(item) for key, item in value.items()}
        return {key: item for key, item in inner.items() if item != {} and not (isinstance(item, list) and not any(item))}
    return [_tidy(item) for item in value] if isinstance(value, list) else value


def test_every_field_of_every_kind_has_a_number() -> None:
    missing = {f"{name}.{field}" for name, shape in shapes().types.items() for field in shape.fields
               if field not in ("apiVersion", "kind") and (name not in table() or field not in fields_of(name))}
    assert missing == set()


def test_zeros_live_where_go_keeps_them() -> None:
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"generation": 0}, "spec": {
        "replicas": 0, "paused": False, "minReadySeconds": 0}}
    assert decode_protobuf(envelope(deployment)) == {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "spec": {"replicas": 0}}
    nulls = {"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": None}, "spec": None}
    assert decode_protobuf(envelope(nulls)) == {"apiVersion": "v1", "kind": "Pod", "metadata": {}}


def test_lists_metadata_and_frames() -> None:
    items = [{"metadata": {"name": name}} for name in "ab"]
    partial = ("meta.k8s.io/v1", "PartialObjectMetadataList")
    body = joined("v1", "ConfigMapList", {"resourceVersion": "7", "remainingItemCount": 0},
                  map(item_of("v1", "ConfigMapList"), items))
    assert decode_protobuf(body) == {"apiVersion": "v1", "kind": "ConfigMapList", "items": items,
                                     "metadata": {"resourceVersion": "7", "remainingItemCount": 0}}
    assert decode_protobuf(joined(*partial, {}, map(item_of(*partial), items)))["items"] == items
    frame = watch_frame("ADDED", body)
    assert struct.unpack(">I", frame[:4])[0] == len(frame) - 4
    assert frame[4:12] == b"\x0a\x05ADDED\x12"
    assert frame.endswith(body)


def test_a_kind_without_numbers_is_refused() -> None:
    assert not known("example.com/v1", "Thing")
    with pytest.raises(Invalid, match='no kind "Thing"'):
        envelope({"apiVersion": "example.com/v1", "kind": "Thing"})
