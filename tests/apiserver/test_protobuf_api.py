"""What Go components ask for: objects, lists, watches and errors in protobuf, bodies too."""

from __future__ import annotations

import random
import struct
import time
from typing import Any

import pytest

from minik8s.apiserver.schema.protobuf import decode_protobuf
from minik8s.apiserver.schema.protobuf_out import envelope
from tests.apiserver.apiprocess import ApiServer

pytestmark = pytest.mark.etcd
CORE = "/api/v1/namespaces"
PROTOBUF = "application/vnd.kubernetes.protobuf"
GO = f"{PROTOBUF},application/json"
PARTIAL = "as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"
Object = dict[str, Any]


class Wire:
    """One connection, as Go's client keeps it."""

    def __init__(self, api: ApiServer) -> None:
        self.connection = api.connection()

    def ask(self, method: str, path: str, body: bytes | None = None, *, accept: str = GO) -> tuple[Any, bytes]:
        headers = {"Accept": accept, **({"Content-Type": PROTOBUF} if body is not None else {})}
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        return response, response.read()

    def read(self, path: str, accept: str = GO) -> tuple[str, Object]:
        response, body = self.ask("GET", path, accept=accept)
        return response.getheader("Content-Type"), decode_protobuf(body)


@pytest.fixture
def wire(api: ApiServer) -> Wire:
    return Wire(api)


@pytest.fixture(scope="module")
def ns(api: ApiServer) -> str:
    name = f"pb-{time.time_ns() % 10**7}"
    assert api.call("POST", CORE, {"metadata": {"name": name}}).code == 201
    return name


def pod(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"a": "b"}}, "spec": {
        "containers": [{"name": "c", "image": "x:1", "ports": [{"containerPort": 80}],
                        "resources": {"limits": {"memory": "64Mi"}},
                        "livenessProbe": {"httpGet": {"path": "/", "port": "http"}}}]}}


def tidy(value: Any) -> Any:
    """JSON without what protobuf has no word for: empty objects and zeros of plain fields."""
    if isinstance(value, dict):
        made = {key: tidy(inner) for key, inner in value.items()}
        return {key: inner for key, inner in made.items() if inner not in (None, {}, [], False, 0, "")}
    return [tidy(item) for item in value] if isinstance(value, list) else value


def without_heads(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}


def test_one_object_and_lists(api: ApiServer, ns: str, wire: Wire) -> None:
    path = f"{CORE}/{ns}/pods"
    response, body = wire.ask("POST", path, envelope(pod("one")))
    made = decode_protobuf(body)
    assert (response.status, response.getheader("Content-Type"), made["metadata"]["name"]) == (201, PROTOBUF, "one")
    as_json = api.call("GET", f"{path}/one").body
    assert as_json["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:containers"]
    kind, got = wire.read(f"{path}/one")
    assert (kind, tidy(got)) == (PROTOBUF, tidy(as_json))
    for number in range(3):
        assert wire.ask("POST", path, envelope(pod(f"more-{number}")))[0].status == 201
    kind, listed = wire.read(path)
    as_json = api.call("GET", path).body
    assert (kind, listed["kind"], listed["metadata"]) == (PROTOBUF, "PodList", as_json["metadata"])
    assert [tidy(item) for item in listed["items"]] == [tidy(without_heads(item)) for item in as_json["items"]]
    _, page = wire.read(f"{path}?limit=2")
    assert (len(page["items"]), page["metadata"]["remainingItemCount"]) == (2, 2)
    _, rest = wire.read(f"{path}?limit=2&continue={page['metadata']['continue']}")
    assert [item["metadata"]["name"] for item in rest["items"]] == ["more-2", "one"]
    obj = {**got, "metadata": {**got["metadata"], "labels": {"new": "label"}}}
    response, body = wire.ask("PUT", f"{path}/one", envelope(obj))
    assert (response.status, decode_protobuf(body)["metadata"]["labels"]) == (200, {"new": "label"})


def test_metadata_only_and_what_is_never_protobuf(api: ApiServer, ns: str, wire: Wire) -> None:
    path = f"{CORE}/{ns}/configmaps"
    api.call("POST", path, {"metadata": {"name": "c"}, "data": {"k": "v"}})
    kind, got = wire.read(f"{path}/c", f"{PROTOBUF};{PARTIAL.format('')}")
    assert (kind, got["kind"], "data" in got) == (f"{PROTOBUF};{PARTIAL.format('')}", "PartialObjectMetadata", False)
    _, listed = wire.read(path, f"{PROTOBUF};{PARTIAL.format('List')},application/json;{PARTIAL.format('List')}")
    names = [item["metadata"]["name"] for item in listed["items"]]
    assert (listed["kind"], [name for name in names if name != "kube-root-ca.crt"]) == ("PartialObjectMetadataList", ["c"])
    table = "as=Table;v=v1;g=meta.k8s.io"
    response, _ = wire.ask("GET", path, accept=f"{PROTOBUF};{table},application/json;{table}")
    assert response.getheader("Content-Type").startswith("application/json;as=Table")
    assert wire.ask("GET", path, accept=f"{PROTOBUF};{table}")[0].status == 406
    response, body = wire.ask("GET", f"{path}/none")
    assert (response.status, response.getheader("Content-Type")) == (404, PROTOBUF)
    status = decode_protobuf(body)
    assert (status["kind"], status["reason"], status["message"], status["code"], status["details"]) == (
        "Status", "NotFound", 'configmaps "none" not found', 404, {"name": "none", "kind": "configmaps"})


@pytest.mark.slow
def test_a_watch_in_frames(api: ApiServer, ns: str, wire: Wire) -> None:
    path = f"{CORE}/{ns}/secrets"
    since = api.call("GET", path).body["metadata"]["resourceVersion"]
    wire.connection.request("GET", f"{path}?watch=1&resourceVersion={since}&timeoutSeconds=3", headers={
        "Accept": f"{PROTOBUF};stream=watch,application/json"})
    response = wire.connection.getresponse()
    assert (response.status, response.getheader("Content-Type")) == (200, f"{PROTOBUF};stream=watch")
    api.call("POST", path, {"metadata": {"name": "s"}, "data": {"k": "dg=="}})
    api.call("DELETE", f"{path}/s")
    seen = []
    while head := response.read(4):
        event = response.read(struct.unpack(">I", head)[0])
        assert event[0] == 0x0A
        type, raw = event[2:2 + event[1]].decode(), event[event.index(b"k8s\0"):]
        obj = decode_protobuf(raw)
        seen.append((type, obj["kind"], obj["metadata"]["name"], obj["data"]))
    assert seen == [("ADDED", "Secret", "s", {"k": "dg=="}), ("DELETED", "Secret", "s", {"k": "dg=="})]


def test_damaged_bodies_are_refused(ns: str, wire: Wire) -> None:
    dice = random.Random(7)
    whole = envelope({**pod("x"), "metadata": {"name": "x", "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]}})
    path = f"{CORE}/{ns}/pods?dryRun=All"
    bodies = [b"", b"k8s\0", whole[:40], b"k8s\0" + b"\xff" * 40, whole.replace(b"\x12\x03Pod", b"\x12\x03Pox")]
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(4, len(damaged))] = dice.randrange(256)
        bodies.append(bytes(damaged))
    codes = set()
    for body in bodies:
        response, said = wire.ask("POST", path, body)
        assert response.status in (201, 400, 404, 415, 422), (body, said)
        codes.add(response.status)
    assert 400 in codes


def test_deep_bodies_are_refused(wire: Wire) -> None:
    """A schema within a schema, two thousand times; and a list a million empty items long."""
    inner = b""
    for _ in range(2000):
        inner = b"\xe2\x01" + size(len(inner)) + inner  # not
    for tag in (b"\x0a", b"\x22", b"\x3a", b"\x12"):
        inner = tag + size(len(inner)) + inner
    meta = b"\x0a\x17apiextensions.k8s.io/v1\x12\x18CustomResourceDefinition"
    body = b"k8s\0\x0a" + size(len(meta)) + meta + b"\x12" + size(len(inner)) + inner
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    response, said = wire.ask("POST", path, body, accept="application/json")
    assert response.status == 400, said
    assert b"deep" in said
    began = time.monotonic()
    many = b"\x12\x00" * 1_000_000
    head = b"\x0a\x0d\x0a\x02v1\x12\x07Service"
    spec = b"\x12" + size(len(many)) + many
    response, _ = wire.ask("POST", f"{CORE}/default/services?dryRun=All", b"k8s\0" + head + b"\x12" + size(len(spec)) + spec)
    assert (response.status, time.monotonic() - began < 120) == (422, True)


def size(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])
