"""Patches and bodies made to hurt: refused or done, always soon, never a crash."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import time
from typing import Any

import pytest

from minik8s.apiserver.schema import duplicates, json_patch, merge_patch, strategic_merge, validate
from minik8s.apiserver.schema.patch import TooLarge
from minik8s.apiserver.schema.protobuf import decode_protobuf
from nodecore.errors import Invalid

DEPLOYMENT = ("apps", "v1", "Deployment")
SECONDS = 15.0  # of processor: what takes time in the square of its input takes minutes
DOCUMENT: dict[str, Any] = {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}, "finalizers": ["x/y"]},
    "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}}}}


@pytest.fixture(autouse=True)
def _soon(cache: Any) -> Any:
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024


def test_copies_of_copies() -> None:
    doubling = [{"op": "copy", "from": "/a", "path": f"/a/{number}"} for number in range(10_000)]
    with pytest.raises(TooLarge):
        json_patch({"a": {"x": "y" * 1000}}, doubling)
    deeper = [{"op": "copy", "from": "", "path": "/a"} for _ in range(40)]
    with pytest.raises(TooLarge):
        json_patch({"x": "y" * 100}, [*deeper, *({"op": "copy", "from": "", "path": f"/{n}"} for n in range(40))])
    nest = "/a" * 1500
    steps = [{"op": "add", "path": nest[: 2 * depth], "value": {}} for depth in range(1, 1500)]
    with contextlib.suppress(Invalid, RecursionError):  # the verbs refuse both
        json_patch({}, [*steps, {"op": "copy", "from": "/a", "path": "/b"}])


def test_very_long_lists() -> None:
    many = [{"name": f"n{number}", "image": "x"} for number in range(40_000)]
    patch = {"spec": {"template": {"spec": {"containers": many, "$setElementOrder/containers": [
        {"name": each["name"]} for each in many]}}}}
    merged = strategic_merge(DOCUMENT, patch, DEPLOYMENT)
    assert len(strategic_merge(merged, patch, DEPLOYMENT)["spec"]["template"]["spec"]["containers"]) == 40_001
    names = [f"n{number}" for number in range(100_000)]
    patch = {"metadata": {"finalizers": names, "$deleteFromPrimitiveList/finalizers": names[:50_000]}}
    assert len(strategic_merge({"metadata": {"finalizers": names}}, patch, DEPLOYMENT)["metadata"]["finalizers"]) == 100_000


def test_many_names_twice_or_unknown() -> None:
    body = b"{" + b",".join(b'"n%d":1' % (number % 100_000) for number in range(200_000)) + b"}"
    assert len(duplicates(body)) == 100_000
    assert len(validate(DEPLOYMENT, json.loads(body))) == 1000


def test_long_pointers_and_paths() -> None:
    for path in ("/" * 2_000_000, "/spec" + "/~1~0" * 300_000, "/metadata/labels/" + "x" * 2_000_000):
        for verb in ("remove", "test", "replace"):
            with pytest.raises(Invalid):
                json_patch(DOCUMENT, [{"op": verb, "path": path, "value": 1}])


POINTERS = ["", "/", "/spec", "/spec/replicas", "/spec/template/spec/containers/0", "/spec/template/spec/containers/-",
            "/spec/template/spec/containers/01", "/metadata/labels/a", "/metadata/finalizers/0", "/none", "no", 7, None, "/a~2b"]
VALUES: list[Any] = [None, 1, -1, True, "x", [], {}, [1, [2]], {"name": "c"}, [{"name": "c"}, {"name": "c"}],
                     {"$patch": "replace"}, {"$patch": "delete"}, {"$retainKeys": ["a"]}, [{"$patch": "delete", "name": "c"}],
                     {"$patch": []},
                     [None], 1e300]
KEYS = ["spec", "template", "containers", "metadata", "labels", "finalizers", "$setElementOrder/containers", "$patch", "replicas",
        "$deleteFromPrimitiveList/finalizers", "$retainKeys", "name", "ports", "containerPort", "strategy", "env", "x"]


def value(dice: random.Random, depth: int) -> Any:
    if not depth or dice.random() < 0.25:
        return dice.choice(VALUES)
    if dice.random() < 0.3:
        return [value(dice, depth - 1) for _ in range(dice.randint(0, 3))]
    return {dice.choice(KEYS): value(dice, depth - 1) for _ in range(dice.randint(0, 4))}


def operation(dice: random.Random) -> Any:
    if dice.random() < 0.05:
        return value(dice, 2)
    made = {"op": dice.choice(["add", "remove", "replace", "move", "copy", "test", "odd", None]), "path": dice.choice(POINTERS),
            "from": dice.choice(POINTERS), "value": value(dice, 3)}
    return {key: item for key, item in made.items() if dice.random() < 0.95}


def test_random_patches() -> None:
    dice = random.Random(20261121)
    before = json.dumps(DOCUMENT)
    for _ in range(1500):
        for attempt in (lambda: json_patch(DOCUMENT, [operation(dice) for _ in range(dice.randint(0, 5))]),
                        lambda: merge_patch(DOCUMENT, value(dice, 5)),
                        lambda: strategic_merge(DOCUMENT, value(dice, 6), DEPLOYMENT)):
            with contextlib.suppress(Invalid):
                made = attempt()
                if isinstance(made, dict):
                    validate(DEPLOYMENT, made)
    assert json.dumps(DOCUMENT) == before, "what is patched stays as it was"


def test_random_protobuf() -> None:
    from minik8s.apiserver.schema.protobuf_out import envelope

    dice = random.Random(20261121)
    entry = {"fieldsV1": {"f:a": {}}, "time": "2026-01-01T00:00:00Z"}
    whole = envelope({**DOCUMENT, "metadata": {"name": "d", "managedFields": [entry]}})
    for _ in range(4000):
        damaged = bytearray(whole[: dice.randint(8, len(whole))] if dice.random() < 0.3 else whole)
        for _ in range(dice.randint(1, 6)):
            damaged[dice.randrange(4, len(damaged))] = dice.randrange(256)
        with contextlib.suppress(Invalid):
            decode_protobuf(bytes(damaged))
