"""Random patches, applies and bodies against a real server: a Status of 2xx or 4xx each time, and the server lives on."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from tests.apiserver.apiprocess import ApiServer

pytestmark = pytest.mark.etcd
APPS = "/apis/apps/v1/namespaces/default/deployments"
FORMS = ("application/merge-patch+json", "application/strategic-merge-patch+json", "application/json-patch+json",
         "application/apply-patch+yaml")
NAMES = ["spec", "template", "containers", "metadata", "labels", "finalizers", "managedFields", "name", "ports", "replicas",
         "status", "$patch", "$setElementOrder/containers", "$retainKeys", "fieldsV1", "f:spec", ".", "k:{", "ownerReferences",
         "uid", "env", "selector", "strategy", "conditions", "resourceVersion", "annotations", "namespace", "creationTimestamp",
         "generation"]
VALUES: list[Any] = [None, 0, -1, 2**63 - 1, 1.5, True, "", "x", "d", "80", [], {}, [None], [[]], ["a", "a"], [{"name": "c"}],
                     [{"name": "c", "image": "x"}], [{"manager": "m", "operation": "Apply", "fieldsV1": {"f:spec": {}}}], [{}],
                     {"a": "b"}, "2026-01-01T00:00:00Z"]
PATHS = ["", "/", "/metadata", "/metadata/labels", "/metadata/managedFields", "/metadata/managedFields/0/fieldsV1", "/spec",
         "/spec/template/spec/containers/0", "/spec/template/spec/containers/-", "/spec/replicas", "/kind", "/metadata/name",
         "/status"]
HEAD = {"apiVersion": "apps/v1", "kind": "Deployment"}
START = {**HEAD, "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
    "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}}


def value(dice: random.Random, depth: int) -> Any:
    if not depth or dice.random() < 0.3:
        return dice.choice(VALUES)
    if dice.random() < 0.2:
        return [value(dice, depth - 1) for _ in range(dice.randint(0, 2))]
    return {dice.choice(NAMES): value(dice, depth - 1) for _ in range(dice.randint(0, 4))}


def guided(dice: random.Random) -> Any:
    """Something that begins like a deployment, so that it gets further in."""
    template = {"spec": value(dice, 3), "metadata": value(dice, 2)}
    return {"metadata": value(dice, 3), "spec": {"template": template, dice.choice(NAMES): value(dice, 2)}}


def patch(dice: random.Random, form: str) -> Any:
    if form == FORMS[2]:
        return [{"op": dice.choice(["add", "remove", "replace", "move", "copy", "test"]), "path": dice.choice(PATHS),
                 "from": dice.choice(PATHS), "value": value(dice, 3)} for _ in range(dice.randint(1, 3))]
    made = guided(dice) if dice.random() < 0.7 else value(dice, 5)
    if form == FORMS[3] and isinstance(made, dict):
        made = {**HEAD, **made}
    return made


@pytest.mark.parametrize("sub", ["", "/status", "/scale"])
def test_random_patches(api: ApiServer, sub: str) -> None:
    dice = random.Random(f"patches{sub}")
    connection = api.connection()
    name = f"fuzz{sub.replace('/', '-')}-{time.time_ns() % 10**6}"

    def ask(method: str, path: str, body: Any, content: str) -> tuple[int, bytes]:
        connection.request(method, path, json.dumps(body), {"Content-Type": content})
        reply = connection.getresponse()
        return reply.status, reply.read()

    codes = set()
    for number in range(250):
        if number % 50 == 0:
            ask("PATCH", f"{APPS}/{name}?fieldManager=start&force=true", {**START, "metadata": {"name": name}}, FORMS[3])
        form = FORMS[number % 4]
        query = "fieldManager=fuzz" + ("&force=true" if form == FORMS[3] and dice.random() < 0.5 else "")
        body = patch(dice, form)
        code, said = ask("PATCH", f"{APPS}/{name}{sub}?{query}", body, form)
        assert code < 500, (form, json.dumps(body), said)
        if code >= 400:
            assert json.loads(said)["kind"] == "Status"
        codes.add(code)
    assert codes & {200, 201}
    assert codes & {400, 422}


@pytest.mark.parametrize(("path", "method"), [
    ("/api/v1/namespaces/default/bindings", "POST"), ("/api/v1/namespaces/default/pods/none/binding", "POST"),
    ("/api/v1/namespaces/default/finalize", "PUT"), ("/api/v1/namespaces/default/pods/none/eviction", "POST"),
    ("/api/v1/namespaces/default/serviceaccounts/default/token", "POST"),
    ("/api/v1/namespaces/default/pods/none/ephemeralcontainers", "PUT"),
    ("/apis/authorization.k8s.io/v1/subjectaccessreviews", "POST"), ("/api/v1/namespaces/default/pods/none", "DELETE"),
])
def test_random_bodies_of_subresources(api: ApiServer, path: str, method: str) -> None:
    dice = random.Random(path)
    names = ["metadata", "target", "spec", "deleteOptions", "gracePeriodSeconds", "preconditions", "dryRun", "name", "uid",
             "finalizers", "audiences", "expirationSeconds", "boundObjectRef", "resourceAttributes", "propagationPolicy"]
    for _ in range(40):
        body = {name: value(dice, 2) for name in dice.sample(names, 4)}
        for name in ("metadata", "target", "spec", "deleteOptions"):
            if dice.random() < 0.4:
                body[name] = {inner: value(dice, 1) for inner in dice.sample(names, 3)}
        found = api.call(method, path + "?dryRun=All", body)
        assert found.code < 500, (body, found.body)


def test_random_objects(api: ApiServer) -> None:
    dice = random.Random("objects")
    connection = api.connection()
    for number in range(200):
        body = {**START, **guided(dice)} if number % 2 else {**START, "metadata": {"managedFields": value(dice, 4), "name": "o"}}
        text = json.dumps(body)
        if number % 5 == 0:
            at = dice.randrange(len(text))
            text = text[:at] + dice.choice(['"', "{", "}", "[", ",", "\\", "\x00", "é", " "]) + text[at:]
        content = "application/yaml" if number % 3 == 0 else "application/json"
        mode = dice.choice(["Strict", "Warn", "Ignore"])
        connection.request("POST", f"{APPS}?dryRun=All&fieldValidation={mode}", text.encode(), {"Content-Type": content})
        reply = connection.getresponse()
        said = reply.read()
        assert reply.status < 500, (text, said)
    assert api.call("GET", "/readyz").code == 200


@pytest.mark.parametrize("part", [{}, {"spec": {}}, {"spec": None}, {"spec": {"containers": None}}, {"spec": {"containers": []}},
                                  {"spec": {"containers": [{}]}}, {"spec": {"containers": [{"name": "c"}], "volumes": [{}]}}])
@pytest.mark.parametrize(("path", "kind"), [("pods", "Pod"), ("podtemplates", "PodTemplate"), ("replicationcontrollers", "RC")])
def test_bare_pods_are_invalid(api: ApiServer, path: str, kind: str, part: dict[str, Any]) -> None:
    holders = {"Pod": part, "PodTemplate": {"template": part}, "RC": {"spec": {"template": part}}}
    body = {"metadata": {"name": "bare"}, **holders[kind]}
    found = api.call("POST", f"/api/v1/namespaces/default/{path}?dryRun=All", body)
    assert found.code in (201, 400, 422) if kind != "Pod" else found.code == 422, found.body
