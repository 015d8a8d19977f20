"""Deletion as the original does it: grace, finalizers, what becomes of dependants, preconditions, evictions within a budget."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver.apiprocess import Answer, ApiServer
from tests.apiserver.every_kind import OBJECTS

pytestmark = pytest.mark.etcd
SPACE = "deletion"
MERGE = "application/merge-patch+json"
CORE = f"/api/v1/namespaces/{SPACE}"
BUDGETS = f"/apis/policy/v1/namespaces/{SPACE}/poddisruptionbudgets"


@pytest.fixture(scope="module", autouse=True)
def space(api: ApiServer) -> None:
    assert api.call("POST", "/api/v1/namespaces", {"metadata": {"name": SPACE}}).code == 201


def made(api: ApiServer, path: str, name: str, **body: Any) -> dict[str, Any]:
    answer = api.call("POST", path, {"metadata": {"name": name, **body.pop("metadata", {})}, **body})
    assert answer.code == 201, answer.body
    found: dict[str, Any] = answer.body
    return found


def pod(api: ApiServer, name: str, **more: Any) -> str:
    spec = {"containers": [{"name": "c", "image": "x"}], "nodeName": "nowhere", **more}
    made(api, f"{CORE}/pods", name, spec=spec, metadata={"labels": {"app": name}})
    return f"{CORE}/pods/{name}"


def test_grace_is_given_shortened_and_never_lengthened(api: ApiServer) -> None:
    path = pod(api, "graceful")
    first = api.call("DELETE", path).body["metadata"]
    assert first["deletionGracePeriodSeconds"] == 30
    shorter = api.call("DELETE", path, {"gracePeriodSeconds": 5}).body["metadata"]
    assert shorter["deletionGracePeriodSeconds"] == 5
    assert shorter["deletionTimestamp"] < first["deletionTimestamp"]
    longer = api.call("DELETE", path, {"gracePeriodSeconds": 60}).body["metadata"]
    assert longer["deletionGracePeriodSeconds"] == 5
    assert api.call("DELETE", path, {"gracePeriodSeconds": 0}).code == 200
    assert api.call("GET", path).code == 404


def test_finalizers_hold_and_none_is_added_late(api: ApiServer) -> None:
    path = f"{CORE}/configmaps/held"
    made(api, f"{CORE}/configmaps", "held", metadata={"finalizers": ["a.io/one", "a.io/two"]})
    assert api.call("DELETE", path).body["metadata"]["deletionTimestamp"]
    late = api.call("PATCH", path, {"metadata": {"finalizers": ["a.io/one", "a.io/three"]}}, content=MERGE)
    assert late.code == 422
    assert "no new finalizers can be added if the object is being deleted" in late.body["message"]
    api.call("PATCH", path, {"metadata": {"finalizers": ["a.io/one"]}}, content=MERGE)
    assert api.call("GET", path).code == 200
    api.call("PATCH", path, {"metadata": {"finalizers": []}}, content=MERGE)
    assert api.call("GET", path).code == 404


def test_the_last_owner_leaves_nothing(api: ApiServer) -> None:
    """As the garbage collector orphans: by a patch that takes one owner away; clients look whether there is any."""
    path = f"{CORE}/configmaps/orphan"
    owner = {"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u"}
    uid = made(api, f"{CORE}/configmaps", "orphan", metadata={"ownerReferences": [owner], "labels": {}})["metadata"]["uid"]
    patch = {"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": "u"}]}}
    meta = api.call("PATCH", path, patch, content="application/strategic-merge-patch+json").body["metadata"]
    assert not {"ownerReferences", "labels"} & set(meta)
    api.call("DELETE", path)


@pytest.mark.parametrize(("plural", "options", "finalizers"), [
    ("configmaps", {}, None), ("configmaps", {"propagationPolicy": "Orphan"}, ["orphan"]),
    ("configmaps", {"propagationPolicy": "Foreground"}, ["foregroundDeletion"]),
    ("configmaps", {"orphanDependents": True}, ["orphan"]), ("configmaps", {"propagationPolicy": "Background"}, None),
    ("replicationcontrollers", {}, ["orphan"]), ("replicationcontrollers", {"propagationPolicy": "Background"}, None),
])
def test_what_becomes_of_dependants(api: ApiServer, plural: str, options: dict[str, Any], finalizers: list[str] | None) -> None:
    made(api, f"{CORE}/{plural}", "owner", **OBJECTS[plural])
    path = f"{CORE}/{plural}/owner"
    assert api.call("DELETE", path, options).code == 200
    left = api.call("GET", path)
    if finalizers is None:
        assert left.code == 404
    else:
        assert left.body["metadata"]["finalizers"] == finalizers
        api.call("PATCH", path, {"metadata": {"finalizers": None}}, content=MERGE)


@pytest.mark.parametrize(("options", "code"), [
    ({"preconditions": {"uid": "other"}}, 409), ({"preconditions": {"resourceVersion": "1"}}, 409),
    ({"propagationPolicy": "Odd"}, 400), ({"propagationPolicy": "Orphan", "orphanDependents": True}, 400),
    ({"gracePeriodSeconds": -1}, 400), ({"dryRun": ["All"]}, 200), ({"dryRun": ["Some"]}, 422),
])
def test_options_that_keep_an_object(api: ApiServer, options: dict[str, Any], code: int) -> None:
    api.call("POST", f"{CORE}/configmaps", {"metadata": {"name": "kept"}})
    assert api.call("DELETE", f"{CORE}/configmaps/kept", options).code == code
    assert api.call("GET", f"{CORE}/configmaps/kept").code == 200


def evicted(api: ApiServer, path: str) -> Answer:
    body = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": path.rpartition("/")[2]}}
    return api.call("POST", f"{path}/eviction", {**body, "deleteOptions": {"gracePeriodSeconds": 0}})


def test_evictions_spend_a_budget(api: ApiServer) -> None:
    paths = [pod(api, f"budget-{number}") for number in range(3)]
    for path in paths:
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        api.call("PATCH", path, {"metadata": {"labels": {"set": "b"}}}, content=MERGE)
        assert api.call("PATCH", f"{path}/status", {"status": status}, content=MERGE).code == 200
    made(api, BUDGETS, "b", spec={"minAvailable": 2, "selector": {"matchLabels": {"set": "b"}}})
    waiting = evicted(api, paths[0])
    assert waiting.code == 429
    assert "still being processed" in waiting.body["details"]["causes"][0]["message"]
    counts = {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3}
    assert api.call("PATCH", f"{BUDGETS}/b/status", {"status": counts}, content=MERGE).code == 200
    assert evicted(api, paths[0]).code == 201
    assert api.call("GET", paths[0]).code == 404
    status = api.call("GET", f"{BUDGETS}/b").body["status"]
    assert (status["disruptionsAllowed"], list(status["disruptedPods"])) == (0, ["budget-0"])
    refused = evicted(api, paths[1])
    assert refused.code == 429
    assert refused.body["details"]["causes"][0]["reason"] == "DisruptionBudget"
    assert api.call("GET", paths[1]).code == 200
    api.call("DELETE", f"{BUDGETS}/b")
    assert evicted(api, paths[1]).code == 201


def test_a_collection_is_deleted_in_one_namespace_at_a_time(api: ApiServer) -> None:
    for path in ("/api/v1/configmaps", "/apis/apps/v1/deployments"):
        answer = api.call("DELETE", f"{path}?labelSelector=nobody-has-this")
        assert (answer.code, answer.body["reason"]) == (405, "MethodNotAllowed")
    assert api.call("DELETE", "/api/v1/nodes?labelSelector=nobody-has-this").code == 200
