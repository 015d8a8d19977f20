"""Every kind served: applied, applied again, dry run, preconditions, unknown fields, and the same object in protobuf."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from minik8s.apiserver.kinds.catalogue import Kind
from minik8s.apiserver.schema.protobuf import decode_protobuf
from minik8s.apiserver.schema.protobuf_out import envelope
from tests.apiserver.apiprocess import ApiServer
from tests.apiserver.every_kind import OBJECTS, TESTED, name_of, undisturbed

pytestmark = pytest.mark.etcd
APPLY, MERGE, JSON_PATCH = "application/apply-patch+yaml", "application/merge-patch+json", "application/json-patch+json"
JSON, PROTOBUF = "application/json", "application/vnd.kubernetes.protobuf"
SPACE = "every-kind-applied"
Object = dict[str, Any]


class Subject:
    """One object of a kind, over one connection."""

    used = 5_000

    def __init__(self, api: ApiServer, kind: Kind) -> None:
        self.kind, self.collection = kind, kind.resource.path(SPACE if kind.resource.namespaced else None)
        self.connection = api.connection()
        self.begin()

    def begin(self) -> None:
        Subject.used += 1
        resource = self.kind.resource
        self.name = name_of(resource.plural, Subject.used)
        self.path = f"{self.collection}/{self.name}"
        body = OBJECTS[resource.group if resource.group == "events.k8s.io" else resource.plural]
        self.config: Object = {"kind": resource.kind, "apiVersion": resource.api_version,
                               "metadata": {"name": self.name, "labels": {"by": "one"}}, **json.loads(json.dumps(body))}

    def end(self) -> None:
        """It goes, and the next one has another name."""
        self.ask("DELETE", self.path + "?gracePeriodSeconds=0")
        self.begin()

    def ask(self, method: str, path: str, body: Any = None, content: str = JSON, accept: str = JSON) -> tuple[int, Any]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        self.connection.request(method, path, data, {"Accept": accept, **({"Content-Type": content} if data else {})})
        reply = self.connection.getresponse()
        raw = reply.read()
        return reply.status, raw if accept == PROTOBUF else json.loads(raw)

    def apply(self, config: Object, manager: str = "one", more: str = "") -> tuple[int, Any]:
        return self.ask("PATCH", f"{self.path}?fieldManager={manager}{more}", config, APPLY)


@pytest.fixture(scope="module")
def space(api: ApiServer) -> str:
    assert api.call("POST", "/api/v1/namespaces", {"metadata": {"name": SPACE}}).code in (201, 409)
    return SPACE


@pytest.fixture(params=TESTED, ids=["/".join(filter(None, kind.place)) for kind in TESTED])
def subject(api: ApiServer, space: str, request: pytest.FixtureRequest) -> Iterator[Subject]:
    subject = Subject(api, request.param)
    yield subject
    subject.end()
    subject.connection.close()


@undisturbed
def test_applied(subject: Subject) -> None:
    code, body = subject.apply(subject.config, more="&dryRun=All")
    assert code == 201, body
    assert subject.ask("GET", subject.path)[0] == 404
    code, made = subject.apply(subject.config, more="&fieldValidation=Strict")
    assert code == 201, made
    [mine] = made["metadata"]["managedFields"]
    assert (mine["manager"], mine["operation"], mine["apiVersion"]) == ("one", "Apply", subject.kind.resource.api_version)
    code, again = subject.apply(subject.config)
    assert (code, again) == (200, made), "nothing was written"
    other = {**subject.config, "metadata": {"name": subject.name, "labels": {"by": "two"}}}
    code, refused = subject.apply(other, "two")
    assert (code, refused["details"]["causes"][0]) == (409, {
        "reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".metadata.labels.by"})
    bare = {key: subject.config[key] for key in ("apiVersion", "kind")}
    mark = {**bare, "metadata": {"name": subject.name, "labels": {"also": "two"}}}
    code, both = subject.apply(mark, "two")
    assert (code, both["metadata"]["labels"]["also"]) == (200, "two")
    code, gone = subject.apply({**bare, "metadata": {"name": subject.name}}, "two")
    assert (code, "also" in gone["metadata"]["labels"]) == (200, False)
    code, odd = subject.apply({**subject.config, "strange": 1})
    assert (code, ".strange: field not declared in schema" in odd["message"]) == (400, True)


@undisturbed
def test_the_same_in_protobuf(subject: Subject) -> None:
    code, raw = subject.ask("POST", subject.collection + "?dryRun=All", envelope(subject.config), PROTOBUF, PROTOBUF)
    assert (code, decode_protobuf(raw)["metadata"]["name"]) == (201, subject.name), raw
    code, raw = subject.ask("POST", subject.collection, envelope(subject.config), PROTOBUF, PROTOBUF)
    assert code == 201, raw
    _, as_json = subject.ask("GET", subject.path)
    code, raw = subject.ask("GET", subject.path, accept=PROTOBUF)
    assert decode_protobuf(raw)["metadata"]["uid"] == as_json["metadata"]["uid"]
    assert subject.ask("PUT", subject.path, raw, PROTOBUF)[1] == as_json, "the same object again is no change"


@undisturbed
def test_every_patch_is_held_to_the_same_rules(subject: Subject) -> None:
    assert subject.ask("POST", subject.collection, subject.config)[0] == 201
    _, before = subject.ask("GET", subject.path)
    added = [{"op": "add", "path": "/metadata/labels", "value": {"dry": "run"}}]
    for content, patch in ((MERGE, {"metadata": {"labels": {"dry": "run"}}}), (JSON_PATCH, added),
                           ("application/strategic-merge-patch+json", {"metadata": {"labels": {"dry": "run"}}})):
        code, shown = subject.ask("PATCH", subject.path + "?dryRun=All", patch, content)
        assert (code, shown["metadata"]["labels"]["dry"]) == (200, "run")
    for wrong in ({"uid": "another"}, {"resourceVersion": "1"}):
        assert subject.ask("PATCH", subject.path, {"metadata": wrong}, MERGE)[0] == 409
        assert subject.ask("PATCH", f"{subject.path}?fieldManager=x", {
            "apiVersion": subject.config["apiVersion"], "kind": subject.config["kind"], "metadata": wrong}, APPLY)[0] == 409
        assert subject.ask("PUT", subject.path, {**before, "metadata": {**before["metadata"], **wrong}})[0] == 409
        assert subject.ask("DELETE", subject.path, {"preconditions": wrong})[0] == 409
    code, told = subject.ask("PATCH", subject.path + "?fieldValidation=Strict", {"strange": 1}, MERGE)
    assert (code, 'unknown field "strange"' in told["message"]) == (422, True)
    assert "strange" not in subject.ask("PATCH", subject.path + "?fieldValidation=Ignore", {"strange": 1}, MERGE)[1]
    assert subject.ask("PATCH", subject.path, {"metadata": {"name": "other"}}, MERGE)[0] in (400, 422)
    assert subject.ask("GET", subject.path)[1] == before
