"""Server-side apply over HTTP: owners, conflicts, what goes when nobody wants it any more."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.apiserver.apiprocess import Answer, ApiServer

pytestmark = pytest.mark.etcd
CORE, APPS = "/api/v1/namespaces", "/apis/apps/v1/namespaces"
APPLY, MERGE, JSON_PATCH = "application/apply-patch+yaml", "application/merge-patch+json", "application/json-patch+json"
Object = dict[str, Any]


@pytest.fixture(scope="module")
def ns(api: ApiServer) -> str:
    name = f"apply-{time.time_ns() % 10**7}"
    assert api.call("POST", CORE, {"metadata": {"name": name}}).code == 201
    return name


def config(name: str, **data: str) -> Object:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, **({"data": data} if data else {})}


def deployment(name: str, *containers: Object, **spec: Any) -> Object:
    template = {"metadata": {"labels": {"a": name}}, "spec": {"containers": list(containers)}}
    return {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": {"a": name}}, "template": template, **spec}}


def apply(api: ApiServer, path: str, body: Any, manager: str = "one", **query: str) -> Answer:
    words = "&".join(f"{key}={value}" for key, value in {"fieldManager": manager, **query}.items())
    return api.call("PATCH", f"{path}?{words}", body, content=APPLY)


def owners(obj: Object) -> dict[tuple[str, str, str], Object]:
    return {(entry["manager"], entry["operation"], entry.get("subresource", "")): entry["fieldsV1"]
            for entry in obj["metadata"].get("managedFields", [])}


def test_apply_makes_changes_and_takes_back(api: ApiServer, ns: str) -> None:
    path = f"{CORE}/{ns}/configmaps/made"
    made = apply(api, path, config("made", a="1", b="2"))
    assert (made.code, made.body["data"]) == (201, {"a": "1", "b": "2"})
    [entry] = made.body["metadata"]["managedFields"]
    assert entry["time"].endswith("Z")
    del entry["time"]
    assert entry == {"manager": "one", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                     "fieldsV1": {"f:data": {"f:a": {}, "f:b": {}}}}
    again = apply(api, path, config("made", a="1", b="2"))
    assert (again.code, again.body) == (200, api.call("GET", path).body)
    assert again.body["metadata"]["resourceVersion"] == made.body["metadata"]["resourceVersion"], "nothing was written"
    fewer = apply(api, path, config("made", a="1")).body
    assert fewer["data"] == {"a": "1"}
    nothing = apply(api, path, config("made")).body
    assert "data" not in nothing
    assert owners(nothing) == {}


def test_conflicts_name_every_field(api: ApiServer, ns: str) -> None:
    path = f"{CORE}/{ns}/configmaps/fought"
    apply(api, path, config("fought", a="1", b="1", c="1"))
    refused = apply(api, path, config("fought", a="2", b="2", c="1"), "two")
    assert (refused.code, refused.body["reason"]) == (409, "Conflict")
    assert refused.body["message"] == 'Apply failed with 2 conflicts: conflicts with "one":\n- .data.a\n- .data.b'
    assert refused.body["details"] == {"causes": [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": f".data.{key}"} for key in "ab"]}
    single = apply(api, path, config("fought", a="2"), "two")
    assert single.body["message"] == 'Apply failed with 1 conflict: conflict with "one": .data.a'
    forced = apply(api, path, config("fought", a="2", c="1"), "two", force="true").body
    assert forced["data"] == {"a": "2", "b": "1", "c": "1"}
    assert owners(forced) == {("one", "Apply", ""): {"f:data": {"f:b": {}, "f:c": {}}},
                              ("two", "Apply", ""): {"f:data": {"f:a": {}, "f:c": {}}}}
    shared = apply(api, path, config("fought", b="1"), "one").body
    assert shared["data"] == {"a": "2", "b": "1", "c": "1"}, "c belongs to two still"
    assert apply(api, path, config("fought", a="2"), "two").body["data"] == {"a": "2", "b": "1"}


def test_updates_own_what_they_touch(api: ApiServer, ns: str) -> None:
    path = f"{APPS}/{ns}/deployments/d"
    made = apply(api, path, deployment("d", {"name": "c", "image": "x:1", "ports": [{"containerPort": 80}]}, replicas=2))
    assert made.code == 201, made.body
    template = {"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {'k:{"name":"c"}': {
        ".": {}, "f:name": {}, "f:image": {}, "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {
            ".": {}, "f:containerPort": {}}}}}}}
    assert owners(made.body) == {("one", "Apply", ""): {"f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": template}}}
    agent = {"User-Agent": "scaler/v1 (linux)"}
    scaled = api.call("PATCH", f"{path}/scale", {"spec": {"replicas": 5}}, content=MERGE, headers=agent).body
    assert scaled["metadata"]["managedFields"][0]["manager"] == "scaler"
    obj = api.call("GET", path).body
    assert owners(obj)["scaler", "Update", "scale"] == {"f:spec": {"f:replicas": {}}}
    assert "f:replicas" not in owners(obj)["one", "Apply", ""]["f:spec"]
    refused = apply(api, path, deployment("d", {"name": "c", "image": "x:2"}, replicas=2))
    assert refused.body["message"] == ('Apply failed with 1 conflict: conflict with "scaler" with subresource "scale" using '
                                       'apps/v1: .spec.replicas')
    left = apply(api, path, deployment("d", {"name": "c", "image": "x:2"})).body["spec"]
    assert left["replicas"] == 5
    assert "ports" not in left["template"]["spec"]["containers"][0]
    status = api.call("PATCH", f"{path}/status?fieldManager=ctl", {"status": {"replicas": 5}}, content=MERGE).body
    assert owners(status)["ctl", "Update", "status"] == {"f:status": {"f:replicas": {}}}


def test_status_and_scale_are_applied_apart(api: ApiServer, ns: str) -> None:
    path = f"{APPS}/{ns}/deployments/parts"
    apply(api, path, deployment("parts", {"name": "c", "image": "x"}))
    head = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "parts"}}
    written = apply(api, f"{path}/status", {**head, "spec": {"replicas": 9}, "status": {"replicas": 3}}, "ctl").body
    assert (written["spec"]["replicas"], written["status"]) == (1, {"replicas": 3})
    assert owners(written)["ctl", "Apply", "status"] == {"f:status": {"f:replicas": {}}}
    scale = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "parts"}, "spec": {"replicas": 4}}
    scaled = apply(api, f"{path}/scale", scale, "auto")
    assert (scaled.code, scaled.body["spec"]) == (200, {"replicas": 4})
    [entry] = scaled.body["metadata"]["managedFields"]
    assert (entry["manager"], entry["apiVersion"], entry["subresource"]) == ("auto", "autoscaling/v1", "scale")
    fought = apply(api, f"{path}/scale", {**scale, "spec": {"replicas": 6}}, "other")
    assert fought.body["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "auto" with subresource "scale"', "field": ".spec.replicas"}]
    assert apply(api, f"{path}/scale", {**scale, "spec": {"replicas": 6}}, "other", force="true").body["spec"] == {"replicas": 6}
    absent = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "none"}}
    assert apply(api, f"{CORE}/{ns}/pods/none/status", absent).code == 404


def test_list_items_by_their_keys(api: ApiServer, ns: str) -> None:
    path = f"{APPS}/{ns}/deployments/items"
    apply(api, path, deployment("items", {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]},
                                {"name": "b", "image": "b:1"}))
    other = deployment("items", {"name": "side", "image": "s"},
                       {"name": "a", "image": "a:1", "env": [{"name": "Y", "value": "2"}]})
    both = apply(api, path, other, "two").body["spec"]["template"]["spec"]["containers"]
    assert [each["name"] for each in both] == ["side", "a", "b"]
    assert both[1]["env"] == [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]
    left = apply(api, path, deployment("items", {"name": "a", "image": "a:1"})).body["spec"]["template"]["spec"]["containers"]
    assert [(each["name"], each.get("env")) for each in left] == [("side", None), ("a", [{"name": "Y", "value": "2"}])]


def test_managed_fields_by_hand(api: ApiServer, ns: str) -> None:
    path = f"{CORE}/{ns}/configmaps/hand"
    api.call("POST", f"{CORE}/{ns}/configmaps?fieldManager=kubectl-client-side-apply", config("hand", a="1"))
    obj = api.call("GET", path).body
    assert owners(obj) == {("kubectl-client-side-apply", "Update", ""): {"f:data": {".": {}, "f:a": {}}}}
    entry = {**obj["metadata"]["managedFields"][0], "manager": "kubectl", "operation": "Apply"}
    ops = [{"op": "replace", "path": "/metadata/managedFields", "value": [entry]},
           {"op": "replace", "path": "/metadata/resourceVersion", "value": obj["metadata"]["resourceVersion"]}]
    moved = api.call("PATCH", path, ops, content=JSON_PATCH).body
    assert owners(moved) == {("kubectl", "Apply", ""): {"f:data": {".": {}, "f:a": {}}}}
    assert "data" not in apply(api, path, config("hand"), "kubectl").body
    odd = {"name": "hand", "managedFields": [{"operation": "Odd"}]}
    kept = api.call("PUT", path, {**config("hand", b="1"), "metadata": odd}).body
    assert "data" in kept, "what cannot be read is not taken"
    again = apply(api, path, config("hand", a="1")).body
    assert ("one", "Apply", "") in owners(again)
    for reset in ([], [{}]):
        cleared = api.call("PATCH", path, {"metadata": {"managedFields": reset}}, content=MERGE).body
        assert "managedFields" not in cleared["metadata"]
        first = apply(api, path, config("hand", a="1"), force="true").body
        assert set(owners(first)) == {("before-first-apply", "Update", ""), ("one", "Apply", "")}


def test_dry_run_and_yaml(api: ApiServer, ns: str) -> None:
    path = f"{CORE}/{ns}/configmaps/y"
    text = b"# a comment\napiVersion: v1\nkind: ConfigMap\nmetadata: &m\n  name: y\ndata: {'on': 'yes', n: \"1\"}\n"
    assert apply(api, path, text, dryRun="All").code == 201
    assert api.call("GET", path).code == 404
    assert apply(api, path, text).body["data"] == {"on": "yes", "n": "1"}
    assert apply(api, path, text.replace(b"yes", b"no"), dryRun="All").body["data"]["on"] == "no"
    assert api.call("GET", path).body["data"]["on"] == "yes"
    doubled = text + b"kind: ConfigMap\n"
    strict = apply(api, path, doubled, fieldValidation="Strict")
    assert (strict.code, "kind" in strict.body["message"]) == (400, True)
    assert apply(api, path, doubled).headers["Warning"] == '299 - "duplicate field \\"kind\\""'


WRONG = [
    (b"a: [", {}, 400, "error decoding YAML"),
    (b"- 1", {}, 400, "not an object"),
    (config("w", a="1"), {"manager": ""}, 422, "fieldManager: Required value: is required for apply patch"),
    (config("w", a="1"), {"manager": "x" * 129}, 422, "Too long"),
    ({**config("w"), "spec": {"no": 1}}, {}, 400, ".spec: field not declared in schema"),
    ({**config("w"), "apiVersion": "v2"}, {}, 400, "Incorrect version specified in apply patch"),
    ({**config("w"), "metadata": {"name": "w", "managedFields": [{"manager": "x"}]}}, {}, 400, "managedFields must be nil"),
    ({**config("w"), "metadata": {"name": "other"}}, {}, 400, "does not match"),
    ({**config("w"), "metadata": {"name": "w", "uid": "u"}}, {}, 409, "no existing object"),
    (config("w", a="1"), {"fieldValidation": "Maybe"}, 422, "fieldValidation"),
    (b"a: &a [1,1,1,1,1,1,1,1,1,1]\n" + b"".join(b"%c: &%c [%s]\n" % (i, i, b",".join([b"*%c" % (i - 1)] * 10))
                                               for i in range(98, 110)), {}, 413, "aliases"),
    (b"[" * 5000, {}, 400, "nested"), (b"{" * 200 + b"a: 1" + b"}" * 200, {}, 400, "nested"),
    (b"a: !!python/object:x y", {}, 400, "tag"),
]


@pytest.mark.parametrize(("body", "query", "code", "words"), WRONG)
def test_mistakes_are_refused(api: ApiServer, ns: str, body: Any, query: dict[str, str], code: int, words: str) -> None:
    found = apply(api, f"{CORE}/{ns}/configmaps/w", body, **query)
    assert found.code == code, found.body
    assert words in found.body["message"]
    assert api.call("PATCH", f"{CORE}/{ns}/configmaps/w?force=true", {}, content=MERGE).code == 422


def test_bad_items_of_lists(api: ApiServer, ns: str) -> None:
    path = f"{APPS}/{ns}/deployments/bad"
    twice = apply(api, path, deployment("bad", {"name": "c", "image": "x"}, {"name": "c", "image": "y"}))
    assert (twice.code, 'duplicate entries for key [name="c"]' in twice.body["message"]) == (400, True)
    nameless = apply(api, path, deployment("bad", {"image": "x"}))
    assert (nameless.code, 'omits key field "name"' in nameless.body["message"]) == (400, True)


def test_who_may_only_patch_makes_nothing(api: ApiServer, ns: str) -> None:
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch"]}
    role = {"metadata": {"name": "patcher"}, "rules": [rule]}
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces"
    assert api.call("POST", f"{rbac}/{ns}/roles", role).code == 201
    group = "rbac.authorization.k8s.io"
    binding = {"metadata": {"name": "patcher"}, "subjects": [{"kind": "User", "name": "nobody", "apiGroup": group}],
               "roleRef": {"kind": "Role", "name": "patcher", "apiGroup": group}}
    assert api.call("POST", f"{rbac}/{ns}/rolebindings", binding).code == 201
    path = f"{CORE}/{ns}/configmaps/only-patched"
    end = time.monotonic() + 60
    while api.call("GET", path, user="nobody").code == 403:
        assert time.monotonic() < end
        time.sleep(0.02)
    refused = api.call("PATCH", f"{path}?fieldManager=x", config("only-patched", a="1"), content=APPLY, user="nobody")
    assert (refused.code, "cannot create resource" in refused.body["message"]) == (403, True)
    assert apply(api, path, config("only-patched", a="1")).code == 201
    mine = api.call("PATCH", f"{path}?fieldManager=x", config("only-patched", b="1"), content=APPLY, user="nobody")
    assert (mine.code, mine.body["data"]) == (200, {"a": "1", "b": "1"})


def test_custom_resources(api: ApiServer, ns: str) -> None:
    item = {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}}
    spec = {"type": "object", "properties": {
        "replicas": {"type": "integer"}, "plain": {"type": "array", "items": {"type": "string"}},
        "list": {"type": "array", "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"]}}}
    group = f"apply{time.time_ns() % 10**6}.example.com"
    version = {"name": "v1", "served": True, "storage": True, "subresources": {
        "status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": True}}}}}
    definition = {"metadata": {"name": f"boxes.{group}"}, "spec": {
        "group": group, "scope": "Namespaced", "names": {"plural": "boxes", "kind": "Box"}, "versions": [version]}}
    assert api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).code == 201
    path = f"/apis/{group}/v1/namespaces/{ns}/boxes/b"
    end = time.monotonic() + 60
    while api.call("GET", path).body["message"] != f'boxes.{group} "b" not found':
        assert time.monotonic() < end
        time.sleep(0.02)

    def box(**spec: Any) -> Object:
        return {"apiVersion": f"{group}/v1", "kind": "Box", "metadata": {"name": "b"}, "spec": spec}

    assert apply(api, path, box(replicas=1, plain=["a"], list=[{"id": "x", "n": 1}])).code == 201
    both = apply(api, path, box(list=[{"id": "y", "n": 2}]), "two").body
    assert both["spec"]["list"] == [{"id": "x", "n": 1}, {"id": "y", "n": 2}]
    fought = apply(api, path, box(plain=["b"], list=[{"id": "x", "n": 3}]), "two")
    assert [cause["field"] for cause in fought.body["details"]["causes"]] == ['.spec.list[id="x"].n', ".spec.plain"]
    assert apply(api, path, box(strange=1), "two").code == 400
    left = apply(api, path, box(), "one").body["spec"]
    assert left == {"list": [{"id": "y", "n": 2}]}
    status = apply(api, f"{path}/status", {**box(replicas=7), "status": {"free": {"form": 1}}}, "ctl").body
    assert (status["spec"], status["status"]) == (left, {"free": {"form": 1}})
    assert set(owners(status)["ctl", "Apply", "status"]["f:status"]) == {"f:free"}
    scaled = api.call("PATCH", f"{path}/scale?fieldManager=hand", {"spec": {"replicas": 3}}, content=MERGE)
    assert (scaled.code, api.call("GET", path).body["spec"]["replicas"]) == (200, 3)
