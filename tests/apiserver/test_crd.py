"""CustomResourceDefinitions: a new kind is served at once, held to its schema, printed, scaled, and goes with its objects."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.apiserver.apiprocess import ApiServer
from tests.promised import in_time

pytestmark = pytest.mark.etcd
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
Object = dict[str, Any]
SPEC: Object = {
    "type": "object", "description": "What is wanted.", "required": ["color"],
    "properties": {
        "color": {"type": "string", "pattern": "^[a-z]+$", "description": "Its color."},
        "size": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
        "mode": {"type": "string", "enum": ["fast", "slow"]},
        "replicas": {"type": "integer"},
        "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                  "items": {"type": "object", "required": ["name"],
                            "properties": {"name": {"type": "string"}, "weight": {"type": "integer", "default": 1}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "port": {"x-kubernetes-int-or-string": True},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
STATUS: Object = {"type": "object", "properties": {"replicas": {"type": "integer"}, "phase": {"type": "string"},
                                                   "selector": {"type": "string"}}}
SCHEMA: Object = {"type": "object", "required": ["spec"], "properties": {"spec": SPEC, "status": STATUS}}


def definition(group: str, **changes: Any) -> Object:
    version: Object = {
        "name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": copy.deepcopy(SCHEMA)},
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                                                 "labelSelectorPath": ".status.selector"}},
        "additionalPrinterColumns": [
            {"name": "Color", "type": "string", "jsonPath": ".spec.color"},
            {"name": "Heaviest", "type": "integer", "jsonPath": '.spec.parts[?(@.name=="a")].weight', "priority": 1},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
        "selectableFields": [{"jsonPath": ".spec.color"}],
        **changes,
    }
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]}
    return {"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": f"widgets.{group}"},
            "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}}


def eventually(check: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
    return found


class Widgets:
    """One definition's group, and its objects."""

    count = 0

    def __init__(self, api: ApiServer) -> None:
        Widgets.count += 1
        self.api, self.group = api, f"g{Widgets.count}.example.com"
        self.collection = f"/apis/{self.group}/v1/namespaces/default/widgets"

    def define(self, body: Object | None = None) -> None:
        made = self.api.call("POST", DEFINITIONS, body or definition(self.group))
        assert made.code == 201, made.body
        eventually(lambda: self.api.call("GET", self.collection).code == 200)

    def forget(self) -> None:
        """Wait as well: `kubectl get all` of a later test asks for every kind it has just been told of."""
        self.api.call("DELETE", f"{DEFINITIONS}/widgets.{self.group}")
        eventually(lambda: self.api.call("GET", f"{DEFINITIONS}/widgets.{self.group}").code == 404)
        eventually(lambda: self.api.call("GET", f"/apis/{self.group}/v1").code == 404)

    def widget(self, name: str = "a", **spec: Any) -> Object:
        return {"kind": "Widget", "apiVersion": f"{self.group}/v1", "metadata": {"name": name}, "spec": {"color": "red", **spec}}

    def make(self, name: str = "a", query: str = "", **spec: Any) -> Any:
        return self.api.call("POST", self.collection + query, self.widget(name, **spec))


@pytest.fixture(scope="module")
def shared(api: ApiServer) -> Iterator[Widgets]:
    """A definition that tests may use and not change."""
    widgets = Widgets(api)
    widgets.define()
    yield widgets
    widgets.forget()


@pytest.fixture
def own(api: ApiServer) -> Iterator[Widgets]:
    widgets = Widgets(api)
    yield widgets
    widgets.forget()


def test_a_new_kind_is_served_within_a_second(api: ApiServer, own: Widgets) -> None:
    def again() -> float:
        own.forget()
        began = time.monotonic()
        own.define()
        return time.monotonic() - began

    in_time(again, 1, "a new kind is served")
    status = api.call("GET", f"{DEFINITIONS}/widgets.{own.group}").body["status"]
    assert {item["type"]: item["status"] for item in status["conditions"]} == {"NamesAccepted": "True", "Established": "True"}
    assert status["storedVersions"] == ["v1"]
    assert status["acceptedNames"]["listKind"] == "WidgetList"
    listed = api.call("GET", f"/apis/{own.group}/v1").body
    assert [entry["name"] for entry in listed["resources"]] == ["widgets", "widgets/scale", "widgets/status"]
    assert own.make().code == 201


def test_objects_are_pruned_defaulted_and_checked(api: ApiServer, shared: Widgets) -> None:
    made = shared.make("pruned", strange=1, free={"any": {"thing": 1}}, parts=[{"name": "a", "odd": 2}], port="http",
                       labels={"k": "v"})
    assert made.code == 201, made.body
    assert made.body["spec"] == {"color": "red", "size": 3, "free": {"any": {"thing": 1}}, "port": "http", "labels": {"k": "v"},
                                 "parts": [{"name": "a", "weight": 1}]}
    assert 'unknown field \\"spec.strange\\"' in made.headers["Warning"]
    strict = shared.make("strict", "?fieldValidation=Strict", strange=1)
    assert strict.code == 400
    assert 'strict decoding error: unknown field "spec.strange"' in strict.body["message"]


@pytest.mark.parametrize(("spec", "field", "words"), [
    ({"color": "R3D"}, "spec.color", "spec.color in body should match '^[a-z]+$'"),
    ({"color": 5}, "spec.color", 'spec.color in body must be of type string: "integer"'),
    ({"size": 10}, "spec.size", "spec.size in body should be less than or equal to 9"),
    ({"mode": "other"}, "spec.mode", 'Unsupported value: "other": supported values: "fast", "slow"'),
    ({"parts": [{"name": "a"}, {"name": "a"}]}, "spec.parts[1]", "Duplicate value"),
    ({"parts": [{}]}, "spec.parts[0].name", "Required value"),
    ({"port": True}, "spec.port", "must be of type integer or string"),
    ({"labels": {"a": 1}}, "spec.labels.a", "must be of type string"),
])
def test_wrong_values_are_refused_by_field(shared: Widgets, spec: Object, field: str, words: str) -> None:
    refused = shared.make("wrong", **spec)
    assert refused.code == 422
    cause = refused.body["details"]["causes"][0]
    assert cause["field"] == field
    assert words in cause["message"]


def test_status_scale_and_generation(api: ApiServer, shared: Widgets) -> None:
    body = {**shared.widget("scaled", replicas=2), "status": {"phase": "Sent"}}
    made = api.call("POST", shared.collection, body).body
    assert "status" not in made
    assert made["metadata"]["generation"] == 1
    path = f"{shared.collection}/scaled"
    status = {"replicas": 1, "selector": "a=b", "phase": "Up"}
    assert api.call("PATCH", f"{path}/status", {"status": status}, content=MERGE).body["metadata"]["generation"] == 1
    scale = api.call("GET", f"{path}/scale").body
    assert (scale["kind"], scale["spec"], scale["status"]) == ("Scale", {"replicas": 2}, {"replicas": 1, "selector": "a=b"})
    assert api.call("PATCH", f"{path}/scale", {"spec": {"replicas": 5}}, content=MERGE).body["spec"] == {"replicas": 5}
    after = api.call("GET", path).body
    assert (after["spec"]["replicas"], after["status"], after["metadata"]["generation"]) == (5, status, 2)
    refused = api.call("PATCH", f"{path}/status", {"status": {"replicas": "x"}}, content=MERGE)
    assert refused.code == 422
    assert api.call("PATCH", path, {"spec": {}}, content="application/strategic-merge-patch+json").code == 415


def test_columns_and_field_selectors(api: ApiServer, shared: Widgets) -> None:
    for name, color in (("x", "blue"), ("y", "green")):
        assert shared.make(name, color=color, parts=[{"name": "b"}, {"name": "a", "weight": 7}]).code == 201
    found = api.call("GET", shared.collection + "?fieldSelector=spec.color=blue", accept=TABLE).body
    assert [column["name"] for column in found["columnDefinitions"]] == ["Name", "Color", "Heaviest", "Age"]
    assert [row["cells"][:3] for row in found["rows"]] == [["x", "blue", 7]]
    assert "not supported" in api.call("GET", shared.collection + "?fieldSelector=spec.size=3").body["message"]


def test_applied_by_its_lists_keys(api: ApiServer, shared: Widgets) -> None:
    """Two managers own an item each of a list that the schema calls a map; defaults are nobody's."""
    path = f"{shared.collection}/applied"
    one, two = (shared.widget("applied", parts=[{"name": name, "weight": 2}]) for name in "ab")
    for manager, body in (("one", one), ("two", two)):
        found = api.call("PATCH", f"{path}?fieldManager={manager}", body, content=APPLY)
        assert found.code in (200, 201), found.body
    assert [part["name"] for part in found.body["spec"]["parts"]] == ["a", "b"]
    other = shared.widget("applied", parts=[{"name": "a", "weight": 5}])
    conflict = api.call("PATCH", f"{path}?fieldManager=two", other, content=APPLY)
    assert conflict.code == 409
    assert conflict.body["details"]["causes"][0]["field"] == '.spec.parts[name="a"].weight'
    dropped = api.call("PATCH", f"{path}?fieldManager=two", shared.widget("applied"), content=APPLY).body
    assert [part["name"] for part in dropped["spec"]["parts"]] == ["a"]


@pytest.mark.slow
def test_kubectl_and_a_custom_kind(api: ApiServer, shared: Widgets) -> None:
    manifest = json.dumps(shared.widget("by-kubectl", mode="fast"))
    assert "created" in api.kubectl("apply", "-f", "-", stdin=manifest).stdout
    assert "unchanged" in api.kubectl("apply", "-f", "-", stdin=manifest).stdout
    changed = json.dumps(shared.widget("by-kubectl", size=5, parts=[{"name": "b"}]))
    assert "configured" in api.kubectl("apply", "-f", "-", stdin=changed).stdout
    assert "by-kubectl" in api.kubectl("get", f"widget.{shared.group}", "-o", "wide").stdout
    assert "HEAVIEST" in api.kubectl("get", f"wd.{shared.group}", "-o", "wide").stdout
    assert "widget" in api.kubectl("get", "all").stdout
    api.kubectl("scale", f"widgets.{shared.group}", "by-kubectl", "--replicas=4")
    assert "Its color." in api.kubectl("explain", "widgets.spec.color", f"--api-version={shared.group}/v1").stdout
    bad = api.kubectl("apply", "-f", "-", stdin=json.dumps(shared.widget("bad", strange=1)), check=False)
    assert 'unknown field "spec.strange"' in bad.stderr


def test_several_versions_of_one_object(api: ApiServer, own: Widgets) -> None:
    body = definition(own.group)
    body["spec"]["versions"].append({**copy.deepcopy(body["spec"]["versions"][0]), "name": "v2", "storage": False})
    body["spec"]["versions"][0]["deprecated"] = True
    own.define(body)
    own.make("both")
    other = own.collection.replace("/v1/", "/v2/")
    found = api.call("GET", f"{other}/both").body
    assert (found["apiVersion"], found["spec"]["color"]) == (f"{own.group}/v2", "red")
    assert api.call("PATCH", f"{other}/both", {"spec": {"color": "blue"}}, content=MERGE).body["apiVersion"] == f"{own.group}/v2"
    assert api.call("GET", f"{own.collection}/both").body["spec"]["color"] == "blue"
    assert [item["apiVersion"] for item in api.call("GET", other).body["items"]] == [f"{own.group}/v2"]
    group = api.call("GET", f"/apis/{own.group}").body
    assert group["preferredVersion"]["version"] == "v2"
    assert api.call("GET", other).headers.get("Warning") is None
    said = f'299 - "{own.group}/v1 Widget is deprecated; use {own.group}/v2 Widget"'
    for path in ("", "/both", "?watch=1&timeoutSeconds=1"):
        assert api.call("GET", own.collection + path).headers["Warning"] == said


def test_names_may_be_taken(api: ApiServer, own: Widgets) -> None:
    own.define()
    body = definition(own.group)
    body["metadata"]["name"], body["spec"]["names"] = f"gadgets.{own.group}", {
        "plural": "gadgets", "kind": "Gadget", "shortNames": ["wd"]}
    assert api.call("POST", DEFINITIONS, body).code == 201
    path = f"{DEFINITIONS}/gadgets.{own.group}"
    status = eventually(lambda: api.call("GET", path).body.get("status", {}))
    conditions = {item["type"]: item for item in status["conditions"]}
    assert (conditions["NamesAccepted"]["status"], conditions["Established"]["status"]) == ("False", "False")
    assert conditions["NamesAccepted"]["message"] == '"wd" is already in use'
    assert api.call("GET", f"/apis/{own.group}/v1/gadgets").code == 404
    api.call("PATCH", path, {"spec": {"names": {"shortNames": []}}}, content=MERGE)
    eventually(lambda: api.call("GET", f"/apis/{own.group}/v1/gadgets").code == 200)
    api.call("DELETE", path)


def test_objects_go_before_their_definition(api: ApiServer, own: Widgets) -> None:
    own.define()
    own.make("plain")
    held = {**own.widget("held"), "metadata": {"name": "held", "finalizers": ["example.com/hold"]}}
    assert api.call("POST", own.collection, held).code == 201
    path = f"{DEFINITIONS}/widgets.{own.group}"
    api.call("DELETE", path)
    eventually(lambda: [item["metadata"]["name"] for item in api.call("GET", own.collection).body.get("items", [])] == ["held"])
    assert "Terminating" in json.dumps(api.call("GET", path).body["status"])
    api.call("PATCH", f"{own.collection}/held", {"metadata": {"finalizers": None}}, content=MERGE)
    eventually(lambda: api.call("GET", path).code == 404)
    eventually(lambda: api.call("GET", own.collection).code == 404)


@pytest.mark.parametrize(("change", "words"), [
    ({"schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-validations": [{"rule": "true"}]}}}, "CEL"),
    ({"schema": {}}, "schemas are required"),
    ({"schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {}}}}}, "must not be empty for specified object"),
    ({"schema": {"openAPIV3Schema": {"type": "object", "properties": {"l": {"type": "array"}}}}}, "items: Required value"),
    ({"storage": False}, "exactly one version marked as storage version"),
    ({"additionalPrinterColumns": [{"name": "a", "type": "odd", "jsonPath": ".a"}]}, "Unsupported value"),
    ({"additionalPrinterColumns": [{"name": "a", "type": "string", "jsonPath": ".a[("}]}, "JSONPath"),
    ({"selectableFields": [{"jsonPath": ".spec.parts"}]}, "must point to a field of type"),
])
def test_definitions_that_cannot_be_are_refused(api: ApiServer, change: Object, words: str) -> None:
    refused = api.call("POST", DEFINITIONS, definition("refused.example.com", **change))
    assert refused.code == 422
    assert words in refused.body["message"]


def test_webhook_conversion_and_other_groups_are_refused_by_name(api: ApiServer) -> None:
    body = definition("refused.example.com")
    body["spec"]["conversion"] = {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"]}}
    assert "conversion webhooks are not called" in api.call("POST", DEFINITIONS, body).body["message"]
    body = definition("apps")
    assert "the API's own group" in api.call("POST", DEFINITIONS, body).body["message"]


@pytest.mark.slow
def test_another_server_serves_it_too(api: ApiServer, own: Widgets) -> None:
    """One that starts later from the moment it is ready, and what is defined from then on at once."""
    own.define()
    own.make("there")
    other = ApiServer.start(api.etcd)
    try:
        assert other.call("GET", f"{own.collection}/there").code == 200

        def again() -> float:
            more = Widgets(api)
            more.define()
            began = time.monotonic()
            eventually(lambda: other.call("GET", more.collection).code == 200)
            took = time.monotonic() - began
            api.call("DELETE", f"{DEFINITIONS}/widgets.{more.group}")
            eventually(lambda: other.call("GET", more.collection).code == 404)
            return took

        in_time(again, 2, "the other server serves it")
    finally:
        other.close()
