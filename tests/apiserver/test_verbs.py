"""The verbs over HTTP, as any client may call them."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer

pytestmark = pytest.mark.etcd
CORE, APPS = "/api/v1/namespaces", "/apis/apps/v1/namespaces"
MERGE = "application/merge-patch+json"


@pytest.fixture
def ns(api: ApiServer, request: pytest.FixtureRequest) -> str:
    told = request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:40].strip("-")
    name = f"t-{told}-{time.time_ns() % 10**6}"
    assert api.call("POST", CORE, {"metadata": {"name": name}}).code == 201
    return name


def config(name: str, **data: str) -> dict[str, Any]:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "x:1"}], **spec}}


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def events(api: ApiServer, path: str, *, seconds: int = 60) -> Iterator[dict[str, Any]]:
    connection = http.client.HTTPSConnection("127.0.0.1", api.port, timeout=seconds + 60, context=api.context())
    joint = "&" if "?" in path else "?"
    try:
        connection.request("GET", f"{path}{joint}watch=true&timeoutSeconds={seconds}")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        while line := response.readline():
            yield json.loads(line)
    finally:
        connection.close()


def test_life_of_an_object(api: ApiServer, ns: str) -> None:
    made = api.call("POST", f"{CORE}/{ns}/configmaps", config("a", k="v"))
    assert made.code == 201
    version = made.body["metadata"]["resourceVersion"]
    assert api.call("POST", f"{CORE}/{ns}/configmaps", config("a")).body["reason"] == "AlreadyExists"
    path = f"{CORE}/{ns}/configmaps/a"
    changed = api.call("PUT", path, {**config("a", k="w"), "metadata": {"name": "a", "resourceVersion": version}})
    assert changed.code == 200
    late = api.call("PUT", path, {**config("a", k="x"), "metadata": {"name": "a", "resourceVersion": version}})
    assert (late.code, late.body["reason"]) == (409, "Conflict")
    merged = api.call("PATCH", path, {"data": {"n": "1", "k": None}}, content=MERGE)
    assert merged.body["data"] == {"n": "1"}
    ops = [{"op": "test", "path": "/data/n", "value": "1"}, {"op": "add", "path": "/data/m", "value": "2"}]
    assert api.call("PATCH", path, ops, content="application/json-patch+json").body["data"] == {"n": "1", "m": "2"}
    ops[0]["value"] = "9"
    assert api.call("PATCH", path, ops, content="application/json-patch+json").code == 422
    assert api.call("PATCH", path, {}, content="application/apply-patch+yaml").code == 422, "it needs a fieldManager"
    assert api.call("PATCH", path, {}, content="application/apply-patch+cbor").code == 415
    wrong = api.call("DELETE", path, {"preconditions": {"uid": "other"}})
    assert wrong.code == 409
    gone = api.call("DELETE", path)
    assert (gone.code, gone.body["status"]) == (200, "Success")
    missing = api.call("GET", path)
    assert (missing.code, missing.body["message"]) == (404, 'configmaps "a" not found')


def test_status_is_written_apart(api: ApiServer, ns: str) -> None:
    body = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d"}, "status": {"replicas": 9}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}}
    made = api.call("POST", f"{APPS}/{ns}/deployments", body).body
    assert made["status"] == {}
    assert made["metadata"]["generation"] == 1
    path = f"{APPS}/{ns}/deployments/d"
    patch = {"spec": {"replicas": 5}, "status": {"replicas": 3}}
    written = api.call("PATCH", path + "/status", patch, content=MERGE).body
    assert (written["spec"]["replicas"], written["status"], written["metadata"]["generation"]) == (1, {"replicas": 3}, 1)
    patch = {"spec": {"replicas": 5}, "status": {"replicas": 4}}
    written = api.call("PATCH", path, patch, content=MERGE).body
    assert (written["spec"]["replicas"], written["status"], written["metadata"]["generation"]) == (5, {"replicas": 3}, 2)
    scale = api.call("GET", path + "/scale").body
    assert (scale["kind"], scale["spec"], scale["status"]) == ("Scale", {"replicas": 5}, {"replicas": 3, "selector": "a=b"})
    assert api.call("PATCH", path + "/scale", {"spec": {"replicas": 2}}, content=MERGE).code == 200
    assert api.call("PATCH", path + "/scale", {"spec": {"replicas": -2}}, content=MERGE).code == 422
    assert api.call("GET", path).body["spec"]["replicas"] == 2


def test_lost_updates_are_impossible(api: ApiServer, ns: str) -> None:
    api.call("POST", f"{CORE}/{ns}/configmaps", config("n", n="0"))
    path = f"{CORE}/{ns}/configmaps/n"

    def increase(_: int) -> int:
        tries = 0
        while True:
            tries += 1
            found = api.call("GET", path).body
            found["data"]["n"] = str(int(found["data"]["n"]) + 1)
            if api.call("PUT", path, found).code == 200:
                return tries

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        tries = sum(pool.map(increase, range(24)))
    assert api.call("GET", path).body["data"]["n"] == "24"
    assert tries >= 24


def test_allocations_are_never_double(api: ApiServer, ns: str) -> None:
    def make(number: int) -> tuple[str, int]:
        made = api.call("POST", f"{CORE}/{ns}/services", service(f"s{number}", type="NodePort")).body
        return made["spec"]["clusterIP"], made["spec"]["ports"][0]["nodePort"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(make, range(40)))
    assert len({address for address, _ in found}) == len({port for _, port in found}) == 40

    wanted = service("same", type="NodePort", clusterIP="10.96.200.200", ports=[{"port": 80, "nodePort": 31999}])

    def claim(number: int) -> int:
        return api.call("POST", f"{CORE}/{ns}/services", {**wanted, "metadata": {"name": f"same{number}"}}).code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(claim, range(16)))
    assert sorted(codes) == [201] + [422] * 15
    winner = f"same{codes.index(201)}"
    outside = api.call("POST", f"{CORE}/{ns}/services", service("o", clusterIP="10.97.0.1"))
    assert "not in the valid range" in outside.body["message"]
    moved = api.call("PATCH", f"{CORE}/{ns}/services/{winner}", {"spec": {"clusterIP": "10.96.200.201"}},
                     content=MERGE)
    assert moved.code == 422
    plain = api.call("PATCH", f"{CORE}/{ns}/services/{winner}", {"spec": {"type": "ClusterIP"}}, content=MERGE)
    assert "nodePort" not in plain.body["spec"]["ports"][0]
    reused = api.call("POST", f"{CORE}/{ns}/services", service("again", type="NodePort", ports=[{"port": 80, "nodePort": 31999}]))
    assert reused.code == 201, reused.body
    assert api.call("DELETE", f"{CORE}/{ns}/services/{winner}").code == 200
    freed = api.call("POST", f"{CORE}/{ns}/services", service("third", clusterIP="10.96.200.200"))
    assert freed.code == 201, freed.body


def test_pods_go_gracefully(api: ApiServer, ns: str) -> None:
    pods = f"{CORE}/{ns}/pods"
    api.call("POST", pods, pod("free"))
    assert api.call("DELETE", f"{pods}/free").code == 200
    assert api.call("GET", f"{pods}/free").code == 404
    assert api.call("POST", pods, pod("p")).code == 201
    binding = {"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
    assert api.call("POST", f"{pods}/p/binding", binding).code == 201
    assert api.call("POST", f"{pods}/p/binding", binding).code == 409
    bound = api.call("GET", f"{pods}/p").body
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
    held = api.call("DELETE", f"{pods}/p").body
    assert held["metadata"]["deletionGracePeriodSeconds"] == 30
    assert api.call("GET", f"{pods}/p").code == 200
    assert api.call("DELETE", f"{pods}/p?gracePeriodSeconds=0").code == 200
    assert api.call("GET", f"{pods}/p").code == 404


def test_finalizers_hold(api: ApiServer, ns: str) -> None:
    held = config("f")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    path = f"{CORE}/{ns}/configmaps/f"
    api.call("POST", f"{CORE}/{ns}/configmaps", held)
    assert api.call("DELETE", path).body["metadata"]["deletionTimestamp"]
    assert api.call("GET", path).code == 200
    released = api.call("PATCH", path, {"metadata": {"finalizers": None}}, content=MERGE)
    assert released.code == 200
    assert api.call("GET", path).code == 404


def test_namespaces_end(api: ApiServer, ns: str) -> None:
    assert api.call("DELETE", f"{CORE}/{ns}").body["status"]["phase"] == "Terminating"
    refused = api.call("POST", f"{CORE}/{ns}/configmaps", config("late"))
    assert refused.code == 403
    assert refused.body["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    current = api.call("GET", f"{CORE}/{ns}").body
    current["spec"]["finalizers"] = []
    assert api.call("PUT", f"{CORE}/{ns}/finalize", current).code == 200
    assert api.call("GET", f"{CORE}/{ns}").code == 404
    assert api.call("DELETE", f"{CORE}/default").code == 403
    assert api.call("POST", f"{CORE}/nowhere/configmaps", config("x")).code == 404


def test_dry_run_stores_nothing(api: ApiServer, ns: str) -> None:
    assert api.call("POST", f"{CORE}/{ns}/configmaps?dryRun=All", config("d")).code == 201
    assert api.call("GET", f"{CORE}/{ns}/configmaps/d").code == 404
    assert api.call("POST", f"{CORE}/{ns}/configmaps?dryRun=Some", config("d")).code == 422


def test_field_validation(api: ApiServer, ns: str) -> None:
    odd = {**config("v"), "colour": "red"}
    strict = api.call("POST", f"{CORE}/{ns}/configmaps?fieldValidation=Strict", odd)
    assert (strict.code, 'unknown field "colour"' in strict.body["message"]) == (400, True)
    warned = api.call("POST", f"{CORE}/{ns}/configmaps", odd)
    assert warned.code == 201
    assert warned.headers["Warning"] == '299 - "unknown field \\"colour\\""'
    typed = api.call("POST", f"{CORE}/{ns}/configmaps?fieldValidation=Ignore", {**config("w"), "data": {"a": 1}})
    assert typed.code == 400
    nameless = api.call("POST", f"{CORE}/{ns}/pods", {"metadata": {"name": "n"}, "spec": {"containers": [{"image": "x"}]}})
    assert nameless.code == 422


def test_pages_are_one_list(api: ApiServer, ns: str) -> None:
    for number in range(7):
        api.call("POST", f"{CORE}/{ns}/secrets", {"metadata": {"name": f"p{number}"}})
    path = f"{CORE}/{ns}/secrets?limit=3"
    first = api.call("GET", path).body
    assert first["metadata"]["remainingItemCount"] == 4
    api.call("POST", f"{CORE}/{ns}/secrets", {"metadata": {"name": "p9"}})
    names, token = [item["metadata"]["name"] for item in first["items"]], first["metadata"]["continue"]
    while token:
        page = api.call("GET", f"{path}&continue={token}").body
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
    assert names == [f"p{number}" for number in range(7)]
    assert api.call("GET", f"{path}&continue=nonsense").code == 400


def test_selectors_on_list_and_delete(api: ApiServer, ns: str) -> None:
    for name in ("a", "b", "c"):
        api.call("POST", f"{CORE}/{ns}/pods", pod(name))
    listed = api.call("GET", f"{CORE}/{ns}/pods?labelSelector=app+in+(a,b)&fieldSelector=metadata.name!=b").body
    assert [item["metadata"]["name"] for item in listed["items"]] == ["a"]
    assert api.call("GET", f"{CORE}/{ns}/pods?fieldSelector=spec.colour%3Dred").code == 400
    assert len(api.call("DELETE", f"{CORE}/{ns}/pods?labelSelector=app!=c").body["items"]) == 2
    assert [item["metadata"]["name"] for item in api.call("GET", f"{CORE}/{ns}/pods").body["items"]] == ["c"]


def test_watch_tells_everything_in_order(api: ApiServer, ns: str) -> None:
    path = f"{CORE}/{ns}/configmaps"
    api.call("POST", path, config("a", n="0"))
    version = api.call("GET", path).body["metadata"]["resourceVersion"]
    api.call("PUT", f"{path}/a", config("a", n="1"))
    api.call("DELETE", f"{path}/a")
    seen = events(api, f"{path}?resourceVersion={version}")
    changed, gone = next(seen), next(seen)
    assert (changed["type"], changed["object"]["data"]) == ("MODIFIED", {"n": "1"})
    assert (gone["type"], gone["object"]["data"]) == ("DELETED", {"n": "1"})
    assert int(gone["object"]["metadata"]["resourceVersion"]) > int(changed["object"]["metadata"]["resourceVersion"])
    api.call("POST", path, config("b"))
    assert next(seen)["object"]["metadata"]["name"] == "b"
    fresh = events(api, path)
    assert (next(fresh)["type"], next(events(api, f"{path}?resourceVersion=0"))["type"]) == ("ADDED", "ADDED")


def test_watch_with_a_selector_sees_objects_come_and_go(api: ApiServer, ns: str) -> None:
    path = f"{CORE}/{ns}/pods"
    version = api.call("GET", path).body["metadata"]["resourceVersion"]
    api.call("POST", path, pod("w"))
    for label in ("on", "off"):
        api.call("PATCH", f"{path}/w", {"metadata": {"labels": {"state": label}}}, content=MERGE)
    seen = events(api, f"{path}?resourceVersion={version}&labelSelector=state%3Don")
    assert [next(seen)["type"], next(seen)["type"]] == ["ADDED", "DELETED"]


@pytest.mark.slow
def test_a_revision_from_the_future(api: ApiServer, ns: str) -> None:
    too_new = api.call("GET", f"{CORE}/{ns}/configmaps?resourceVersion=99999999")
    assert too_new.code == 504


def test_table_and_metadata_only(api: ApiServer, ns: str) -> None:
    api.call("POST", f"{CORE}/{ns}/pods", pod("t"))
    table = api.call("GET", f"{CORE}/{ns}/pods", accept="application/json;as=Table;v=v1;g=meta.k8s.io").body
    assert table["kind"] == "Table"
    assert table["rows"][0]["cells"][:3] == ["t", "0/1", "Pending"]
    partial = api.call("GET", f"{CORE}/{ns}/pods/t", accept="application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").body
    assert partial.keys() == {"kind", "apiVersion", "metadata"}


@pytest.mark.parametrize(("user", "method", "path", "code"), [
    ("", "GET", "/healthz", 200), ("", "GET", "/version", 200), ("", "GET", "/readyz/etcd", 401), ("", "GET", "/api", 401),
    ("", "GET", "/api/v1/secrets", 401), ("nobody", "GET", "/api", 200), ("nobody", "GET", "/api/v1/pods", 403),
    ("kubelet", "GET", "/api/v1/pods", 403), ("kubelet", "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1", 200),
    ("kubelet", "DELETE", "/api/v1/nodes/other", 403),
    ("proxy", "GET", "/api/v1/services", 200),
    ("proxy", "GET", "/api/v1/secrets", 403), ("admin", "GET", "/metrics", 200), ("admin", "GET", "/nowhere", 404),
    ("admin", "GET", "/apis/apps/v1/unicorns", 404), ("admin", "GET", "/api/v1/namespaces/default/nodes", 404),
    ("admin", "PUT", "/api/v1/pods", 405), ("admin", "GET", "/api/v1/namespaces/default/pods/..%2f..%2fx", 404),
    ("admin", "GET", "/readyz/nothing", 404), ("admin", "GET", "/openapi/v3/..%2f..", 404), ("admin", "POST", "/version", 405),
    ("admin", "GET", "/api/v1/pods?limit=x", 400), ("admin", "GET", "/api/v1/pods?resourceVersion=x", 400),
    ("admin", "GET", "/api/v1/pods?labelSelector=((", 400),
])
def test_who_may_and_what_there_is(api: ApiServer, user: str, method: str, path: str, code: int) -> None:
    answer = api.call(method, path, user=user)
    assert answer.code == code, answer.body
    if code >= 400 and not path.startswith("/readyz"):
        assert (answer.body["kind"], answer.body["code"]) == ("Status", code)


@pytest.mark.parametrize(("body", "code"), [
    (b"[" * 100000, 400), (b'{"a":' * 200 + b"1" + b"}" * 200, 400), (b"x" * (3 * 1024 * 1024 + 1), 413), (b"", 400),
    (b"[]", 400),
    (b'{"metadata": 1}', 400), (b'{"metadata":{"name":5}}', 400), (b'{"kind":"Pod","metadata":{"name":"a"}}', 400),
    (b'{"metadata":{"name":"a","namespace":"other"}}', 400), (b'{"metadata":{"name":"A_"}}', 422), (b'{"metadata":{}}', 422),
    (b'{"metadata":{"name":"a","labels":{"a":["b"]}}}', 400), (b'{"metadata":{"name":"a"},"data":[]}', 400),
    (b'{"metadata":{"name":"a","finalizers":"x"}}', 400), (b'{"metadata":{"name":"a","ownerReferences":[1]}}', 400),
])
def test_bad_bodies_are_never_our_fault(api: ApiServer, body: bytes, code: int) -> None:
    answer = api.call("POST", f"{CORE}/default/configmaps", body)
    assert (answer.code, answer.body["kind"]) == (code, "Status"), answer.body


@pytest.mark.parametrize("patch", [
    b'"x"', b"[1]", b'[{"op":"add"}]', b'[{"op":"remove","path":"/metadata"}]', b'[{"op":"replace","path":"","value":3}]',
    b'[{"op":"replace","path":"/metadata","value":7}]', b'[{"op":"replace","path":"/kind","value":7}]',
    b'[{"op":"replace","path":"/metadata/name","value":"other"}]',
])
def test_bad_patches_are_never_our_fault(api: ApiServer, patch: bytes) -> None:
    answer = api.call("PATCH", f"{CORE}/default", patch, content="application/json-patch+json")
    assert 400 <= answer.code < 500, answer.body


def test_a_client_that_says_nothing_holds_nobody_up(api: ApiServer) -> None:
    with socket.create_connection(("127.0.0.1", api.port)):
        assert api.call("GET", "/healthz").code == 200


def test_a_certificate_of_another_authority_is_refused(api: ApiServer, tmp_path: Any) -> None:
    from minik8s.pki.authority import Authority, Identity

    pair = Authority().issue(Identity("admin", ("system:masters",)))
    (tmp_path / "c").write_bytes(pair.certificate + pair.key)
    context = ssl.create_default_context(cafile=str(api.file("ca.crt")))
    context.load_cert_chain(tmp_path / "c")

    def ask() -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", api.port, timeout=60, context=context)
        connection.request("GET", "/api/v1/secrets")
        connection.getresponse()

    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask()


@pytest.mark.slow
def test_etcd_killed_in_the_middle_of_a_watch() -> None:
    with EtcdServer.start() as etcd:
        api = ApiServer.start(etcd)
        try:
            path = f"{CORE}/default/configmaps"
            api.call("POST", path, config("before"))
            version = api.call("GET", path).body["metadata"]["resourceVersion"]
            seen: list[str] = []

            def watch() -> None:
                for event in events(api, f"{path}?resourceVersion={version}", seconds=240):
                    seen.append(event["object"]["metadata"]["name"])
                    if seen[-1] == "two":
                        return

            watching = threading.Thread(target=watch)
            watching.start()
            api.call("POST", path, config("one"))
            etcd.kill9()
            assert api.call("GET", "/livez").code == 200
            assert api.call("GET", "/readyz").code == 500
            down = api.call("POST", path, config("lost"))
            assert (down.code, down.body["kind"]) == (503, "Status")
            etcd.restart()
            end = time.monotonic() + 60
            while api.call("POST", path, config("two")).code not in (201, 409):
                assert time.monotonic() < end
                time.sleep(0.05)
            watching.join(90)
            assert [name for name in seen if name != "lost"] == ["one", "two"]
        finally:
            api.close()


@pytest.mark.slow
def test_killed_and_back_in_the_same_state(api_etcd: EtcdServer, tmp_path: Any) -> None:
    api = ApiServer.start(api_etcd)
    try:
        api.call("POST", f"{CORE}/default/services", service("kept"))
        path = f"{CORE}/default/services"
        version = api.call("GET", path).body["metadata"]["resourceVersion"]
        before = api.call("GET", f"{path}/kept").body
        api.call("PATCH", f"{path}/kept", {"metadata": {"labels": {"a": "b"}}}, content=MERGE)
        api.kill9()
        api.launch()
        api.wait()
        resumed = next(events(api, f"{path}?resourceVersion={version}"))
        assert (resumed["type"], resumed["object"]["spec"]) == ("MODIFIED", before["spec"])
    finally:
        api.call("DELETE", f"{CORE}/default/services/kept")
        api.close()
