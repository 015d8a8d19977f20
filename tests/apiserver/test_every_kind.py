"""Every kind served goes through a whole life: made, read, listed, watched, changed, patched in each way, deleted."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from minik8s.apiserver.kinds.catalogue import KINDS, Kind
from minik8s.apiserver.kinds.definitions import is_, kinds_of
from tests.apiserver.apiprocess import Answer, ApiServer
from tests.apiserver.every_kind import OBJECTS, name_of, undisturbed
from tests.apiserver.test_crd import Widgets, definition
from tests.labs import until

pytestmark = pytest.mark.etcd
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
JSON_PATCH, APPLY = "application/json-patch+json", "application/apply-patch+yaml"
SPACE = "every-kind"
GONE = "?gracePeriodSeconds=0&propagationPolicy=Background"
Object = dict[str, Any]
CUSTOM = kinds_of(definition("every.example.com"))[0]
EVERY = (*KINDS, CUSTOM)


class Life:
    """One kind's objects, over one connection; each life's names are its own, as namespaces take their time to go."""

    lives = 0

    def __init__(self, api: ApiServer, kind: Kind) -> None:
        self.api, self.kind = api, kind
        self.first = Life.lives = Life.lives + 10
        resource = kind.resource
        self.collection = resource.path(SPACE if resource.namespaced else None)
        self.connection = api.connection()

    def object(self, number: int = 1, **meta: Any) -> Object:
        resource = self.kind.resource
        own = {"name": self.name(number), "labels": {"suite": "every"}, **meta}
        if resource.plural == "customresourcedefinitions":
            return {**self.definition(self.name(number)), "metadata": own}
        place = resource.group if resource.group == "events.k8s.io" else resource.plural
        body = {"spec": {"color": "red"}} if self.kind.custom else OBJECTS[place]
        return {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": own, **json.loads(json.dumps(body))}

    def definition(self, name: str) -> Object:
        plural, _, group = name.partition(".")
        found = definition(group)
        found["spec"]["names"] = {"plural": plural, "kind": plural.capitalize()}
        return found

    def make(self, body: Object, query: str = "") -> Object:
        """Made, and as it is once nobody else writes into it."""
        return self.settled(self.good("POST", self.collection + query, body))

    def settled(self, obj: Object) -> Object:
        path = f"{self.collection}/{obj['metadata']['name']}"
        if self.kind.resource.plural == "customresourcedefinitions":
            until(lambda: is_(self.good("GET", path), "Established"), what="the definition is established")
            return self.good("GET", path)
        return obj

    def call(self, method: str, path: str, body: Any = None, content: str = "application/json",
             accept: str = "application/json") -> Answer:
        data = None if body is None else json.dumps(body)
        self.connection.request(method, path, data, {"Accept": accept, "Content-Type": content} if data else {"Accept": accept})
        reply = self.connection.getresponse()
        return Answer(reply.status, json.loads(reply.read()), reply.headers)

    def good(self, *args: Any, **more: Any) -> Object:
        answer = self.call(*args, **more)
        assert answer.code in (200, 201), f"{args[:2]}: {answer.body}"
        found: Object = answer.body
        return found

    def name(self, number: int = 1) -> str:
        return name_of(self.kind.resource.plural, self.first + number)

    def path(self, number: int = 1) -> str:
        return f"{self.collection}/{self.name(number)}"

    def end(self) -> None:
        """Its objects go; the next ones have other names."""
        for number in (1, 2, 3):
            with contextlib.suppress(AssertionError):
                self.call("PATCH", self.path(number), {"metadata": {"finalizers": None}}, MERGE)
                self.call("DELETE", self.path(number) + GONE)
        self.first = Life.lives = Life.lives + 10


class Custom(Widgets):
    """The custom kind that lives through the same."""

    def __init__(self, api: ApiServer) -> None:
        self.api, self.group = api, CUSTOM.resource.group
        self.collection = CUSTOM.resource.path(SPACE)


@pytest.fixture(scope="session")
def space(api: ApiServer) -> str:
    assert api.call("POST", "/api/v1/namespaces", {"metadata": {"name": SPACE}}).code in (201, 409)
    Custom(api).define()
    return SPACE


@pytest.fixture(params=EVERY, ids=["/".join(filter(None, kind.place)) for kind in EVERY])
def life(api: ApiServer, space: str, request: pytest.FixtureRequest) -> Iterator[Life]:
    life = Life(api, request.param)
    yield life
    life.end()
    life.connection.close()


@undisturbed
def test_a_whole_life(life: Life) -> None:
    made = life.make(life.object(), "?fieldValidation=Strict")
    resource = life.kind.resource
    assert (made["kind"], made["apiVersion"]) == (resource.kind, resource.api_version)
    assert life.call("POST", life.collection, life.object()).code == 409
    assert life.good("GET", life.path()) == made
    listed = life.good("GET", life.collection + "?labelSelector=suite=every")
    assert listed["kind"] == f"{resource.kind}List"
    assert made["metadata"]["name"] in [item["metadata"]["name"] for item in listed["items"]]
    made["metadata"]["labels"]["put"] = "yes"
    put = life.good("PUT", life.path(), made)
    assert put["metadata"]["labels"]["put"] == "yes"
    assert int(put["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    assert life.call("PUT", life.path(), made).code == 409, "an old resourceVersion"
    for number, (content, patch) in enumerate((
        (MERGE, {"metadata": {"annotations": {"p0": "x"}}}), (STRATEGIC, {"metadata": {"annotations": {"p1": "x"}}}),
        (JSON_PATCH, [{"op": "add", "path": "/metadata/annotations/p2", "value": "x"}]),
    )):
        if life.kind.custom and content == STRATEGIC:
            assert life.call("PATCH", life.path(), patch, content).code == 415
            continue
        patched = life.good("PATCH", life.path(), patch, content)
        assert patched["metadata"]["annotations"][f"p{number}"] == "x"
    if "generation" in patched["metadata"]:
        assert patched["metadata"]["generation"] == 1, "labels and annotations are not the spec"
    assert (life.kind.stored.counted) == ("generation" in patched["metadata"])
    assert life.good("DELETE", life.path() + GONE)
    gone = life.call("GET", life.path())
    assert gone.code == 404 or gone.body["metadata"].get("deletionTimestamp")


@undisturbed
def test_applied_on_the_server(life: Life) -> None:
    """Made by one manager, changed by another, taken over by force; each owns what it said."""
    body = life.object()
    made = life.good("PATCH", life.path() + "?fieldManager=one", body, APPLY)
    assert {each["manager"] for each in made["metadata"]["managedFields"]} == {"one"}
    made = life.settled(made)
    again = life.good("PATCH", life.path() + "?fieldManager=one", body, APPLY)
    assert again == made, "nothing changed"
    other = {**body, "metadata": {"name": life.name(), "labels": {"suite": "other"}}}
    refused = life.call("PATCH", life.path() + "?fieldManager=two", other, APPLY)
    assert refused.code == 409
    assert refused.body["details"]["causes"][0]["field"] == ".metadata.labels.suite"
    taken = life.good("PATCH", life.path() + "?fieldManager=two&force=true", other, APPLY)
    assert taken["metadata"]["labels"]["suite"] == "other"
    assert {each["manager"] for each in taken["metadata"]["managedFields"]} >= {"two"}


@undisturbed
def test_watch_and_table(life: Life) -> None:
    version = life.good("GET", life.collection)["metadata"]["resourceVersion"]
    life.make(life.object())
    life.good("PATCH", life.path(), {"metadata": {"labels": {"b": "c"}}}, MERGE)
    life.good("DELETE", life.path() + GONE)
    query = f"?watch=true&resourceVersion={version}&timeoutSeconds=60&fieldSelector=metadata.name={life.name()}"
    events = watched(life, query, "application/json", 3)
    expected = ["ADDED", "MODIFIED", "MODIFIED" if life.kind.resource.kind == "Namespace" else "DELETED"]
    assert [event["type"] for event in events] == expected
    assert {event["object"]["kind"] for event in events} == {life.kind.resource.kind}
    assert {event["object"]["apiVersion"] for event in events} == {life.kind.resource.api_version}
    rows = watched(life, query, TABLE, 3)
    assert [len(row["object"]["columnDefinitions"]) > 1 for row in rows] == [True, False, False]
    life.good("POST", life.collection, life.object(2))
    table = life.good("GET", life.collection + "?labelSelector=suite=every", accept=TABLE)
    row = next(row for row in table["rows"] if row["object"]["metadata"]["name"] == life.name(2))
    names = [column["name"] for column in table["columnDefinitions"]]
    assert len(names) == len(row["cells"])
    assert str(row["cells"][names.index("Name")]).startswith(life.name(2))
    if life.kind.resource.kind == "Event":
        assert row["cells"][1:4] == ["Normal", "R", "pod/p"]


def watched(life: Life, query: str, accept: str, count: int) -> list[Object]:
    connection = life.api.connection(seconds=60)
    connection.request("GET", life.collection + query, headers={"Accept": accept})
    reply = connection.getresponse()
    assert reply.status == 200
    found = [json.loads(reply.readline()) for _ in range(count)]
    while life.kind.resource.plural == "customresourcedefinitions" and found[-1]["type"] != "DELETED":  # its status is written
        found[1:] = [found[-1], json.loads(reply.readline())]
    connection.close()
    return found


def test_collection_is_deleted(life: Life) -> None:
    for number in (1, 2):
        life.good("POST", life.collection, life.object(number, labels={"doomed": "yes"}))
    life.good("POST", life.collection, life.object(3))
    life.good("DELETE", life.collection + "?labelSelector=doomed=yes&" + GONE[1:])
    left = {item["metadata"]["name"] for item in life.good("GET", life.collection)["items"]
            if not item["metadata"].get("deletionTimestamp")}
    assert life.name(3) in left
    assert not {life.name(1), life.name(2)} & left


@undisturbed
def test_status_is_apart(life: Life) -> None:
    if not life.kind.has_status:
        assert life.call("GET", life.path() + "/status").code == 404
        return
    made = life.make(life.object())
    status = life.good("GET", life.path() + "/status").get("status", {})
    condition = {"type": "Tested", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "R", "message": ""}
    patch = {"status": {"conditions": [condition]}, "metadata": {"labels": {"from": "status"}}}
    if life.kind.resource.kind in ("ResourceQuota", "PersistentVolume", "VolumeAttachment", "CronJob", "Ingress",
                                   "CustomResourceDefinition", "Widget"):
        patch["status"] = {}
    changed = life.good("PATCH", life.path() + "/status", patch, MERGE)
    assert changed.get("spec") == made.get("spec")
    plain = life.good("PATCH", life.path(), {"status": {"conditions": None}}, MERGE)
    assert plain.get("status") == changed.get("status", status)


def test_what_is_not_served_is_refused_by_name(api: ApiServer) -> None:
    for path, words in (
        ("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", "CEL"),
        ("/apis/apiregistration.k8s.io/v1/apiservices", "aggregated"), ("/apis/resource.k8s.io/v1/deviceclasses", "dynamically"),
        ("/apis/apps/v1/unicorns", "could not find"),
    ):
        answer = api.call("GET", path)
        assert answer.code == 404
        assert words in answer.body["message"]


def test_every_kind_is_tested() -> None:
    assert {kind.resource.plural for kind in KINDS} - {"customresourcedefinitions"} <= OBJECTS.keys()
    assert set(EVERY) > set(KINDS)


def test_an_event_is_one_object_in_two_groups(api: ApiServer, space: str) -> None:
    body = {**OBJECTS["events"], "metadata": {"name": "both"}, "source": {"component": "k"}, "count": 2}
    body["involvedObject"] = {**body["involvedObject"], "namespace": SPACE}
    assert api.call("POST", f"/api/v1/namespaces/{SPACE}/events", body).code == 201
    new = api.call("GET", f"/apis/events.k8s.io/v1/namespaces/{SPACE}/events/both").body
    assert (new["apiVersion"], new["note"], new["deprecatedCount"], new["regarding"]["name"]) == ("events.k8s.io/v1", "m", 2, "p")
    change = {"note": "other", "series": {"count": 3, "lastObservedTime": "2026-11-21T00:00:00.000000Z"}}
    assert api.call("PATCH", f"/apis/events.k8s.io/v1/namespaces/{SPACE}/events/both", change, content=MERGE).code == 200
    old = api.call("GET", f"/api/v1/namespaces/{SPACE}/events/both").body
    assert (old["message"], old["source"], old["series"]["count"]) == ("other", {"component": "k"}, 3)
    listed = api.call("GET", f"/apis/events.k8s.io/v1/namespaces/{SPACE}/events?fieldSelector=regarding.name=p,reason=R").body
    assert "both" in [item["metadata"]["name"] for item in listed["items"]]


def test_an_autoscaler_is_one_object_in_two_versions(api: ApiServer, space: str) -> None:
    one, two = (f"/apis/autoscaling/{version}/namespaces/{SPACE}/horizontalpodautoscalers" for version in ("v1", "v2"))
    spec = {**OBJECTS["horizontalpodautoscalers"]["spec"], "targetCPUUtilizationPercentage": 50}
    assert api.call("POST", one, {"metadata": {"name": "both"}, "spec": spec}).code == 201
    new = api.call("GET", f"{two}/both").body
    assert new["spec"]["metrics"] == [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]
    memory = {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 7}}
    change = {"spec": {"metrics": [*new["spec"]["metrics"], memory], "behavior": behavior}}
    api.call("PATCH", f"{two}/both", change, content=MERGE)
    old = api.call("GET", f"{one}/both").body
    assert old["spec"]["targetCPUUtilizationPercentage"] == 50
    assert "metrics" not in old["spec"]
    old["spec"]["maxReplicas"] = 9
    assert api.call("PUT", f"{one}/both", old).code == 200
    after = api.call("GET", f"{two}/both").body
    assert (after["spec"]["maxReplicas"], after["spec"]["metrics"][1]) == (9, memory)
    assert after["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 7
    assert not after["metadata"].get("annotations")


def test_keys_lie_where_the_original_puts_them(api: ApiServer, space: str) -> None:
    argv = ["etcdctl", "--endpoints", api.etcd.endpoint, "get", "/registry/", "--prefix", "--keys-only"]
    listed = subprocess.run(argv, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, check=True)
    keys = set(listed.stdout.split())
    assert f"/registry/events/{SPACE}/both" in keys
    assert f"/registry/horizontalpodautoscalers/{SPACE}/both" in keys
    assert "/registry/services/specs/default/kubernetes" in keys
