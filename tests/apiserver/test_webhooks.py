"""Admission webhooks, real ones over TLS: they change, refuse, warn, are late, are gone."""

from __future__ import annotations

import base64
import http.server
import itertools
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minik8s.pki.authority import Authority, Identity
from tests.apiserver.apiprocess import ApiServer
from tests.labs import until

CORE = "/api/v1/namespaces"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1"
number = itertools.count()


def patch_of(*operations: Any) -> dict[str, Any]:
    return {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(operations).encode()).decode()}


def put(path: str, value: Any) -> dict[str, Any]:
    return patch_of({"op": "add", "path": path, "value": value})


ODD: dict[str, dict[str, Any]] = {
    "no-patch": {"patch": 5}, "no-base64": {"patch": "!!!"}, "no-list": {"patch": base64.b64encode(b"{}").decode()},
    "no-object": put("", 5), "no-metadata": patch_of({"op": "remove", "path": "/metadata"}),
    "another-name": put("/metadata/name", "../../x"), "another-namespace": put("/metadata/namespace", "kube-system"),
    "another-uid": put("/metadata/uid", "x"), "another-type": put("/data", {"a": 5}), "bad-key": put("/data", {"bad key": "x"}),
    "far-away": put("/metadata/managedFields/" + "1" * 5000, 1), "no-warnings": {"allowed": False, "warnings": 5},
    "no-status": {"allowed": False, "status": [1]}, "no-answer": {"uid": 7},
}


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = review["request"]
        self.server.seen.append(request)  # type: ignore[attr-defined]
        answer: dict[str, Any] = {"uid": request["uid"], "allowed": True}
        match self.path:
            case "/label":
                patch = [{"op": "add", "path": "/metadata/labels", "value": {"touched": "yes"}}]
                answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
            case "/no":
                answer |= {"allowed": False, "status": {"message": "not like this", "code": 418}}
            case "/warn":
                answer["warnings"] = ["mind the gap"]
            case "/slow":
                time.sleep(3)
            case "/wrong":
                answer["uid"] = "other"
            case path if path[1:] in ODD:
                answer |= ODD[path[1:]]
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for piece in (body[:10], body[10:]):
            self.wfile.write(piece)  # it comes in pieces, as over any network
            time.sleep(0.01)

    def log_message(self, *_: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.seen: list[dict[str, Any]] = []
        authority = Authority()
        pair = authority.issue(Identity("hook", (), ("127.0.0.1",)))
        (directory / "hook.crt").write_bytes(pair.certificate)
        (directory / "hook.key").write_bytes(pair.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "hook.crt", directory / "hook.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.bundle = base64.b64encode(authority.pair.certificate).decode()


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("hook"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def ns(api: ApiServer) -> str:
    name = f"hook-{next(number)}"
    assert api.call("POST", CORE, {"metadata": {"name": name, "labels": {"hooked": name}}}).code == 201
    return name


@pytest.fixture
def configure(api: ApiServer, hooks: Server, ns: str) -> Iterator[Any]:
    made: list[str] = []

    def make(sort: str, path: str, *operations: str, port: int = 0, **more: Any) -> None:
        hook = {"name": f"{path}.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": {"url": f"https://127.0.0.1:{port or hooks.server_port}/{path}", "caBundle": hooks.bundle},
                "namespaceSelector": {"matchLabels": {"hooked": ns}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                           "operations": list(operations)}], **more}
        body = {"metadata": {"name": f"{ns}-{path}"}, "webhooks": [hook]}
        answer = api.call("POST", f"{CONFIGURATIONS}/{sort}webhookconfigurations", body)
        assert answer.code == 201, answer.body
        made.append(f"{CONFIGURATIONS}/{sort}webhookconfigurations/{ns}-{path}")

    def forget() -> None:
        while made:
            api.call("DELETE", made.pop())

    make.forget = forget  # type: ignore[attr-defined]
    yield make
    forget()


def create(api: ApiServer, ns: str, name: str, **more: Any) -> Any:
    return api.call("POST", f"{CORE}/{ns}/configmaps{more.pop('query', '')}", {"metadata": {"name": name}, **more})


def test_they_change_what_is_made(api: ApiServer, ns: str, configure: Any, hooks: Server) -> None:
    configure("mutating", "label", "CREATE")
    until(lambda: create(api, ns, f"c{next(number)}").body["metadata"].get("labels") == {"touched": "yes"}, what="the label")
    request = hooks.seen[-1]
    assert (request["operation"], request["namespace"], request["userInfo"]["username"]) == ("CREATE", ns, "admin")
    assert request["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert "labels" not in create(api, "default", f"other-{ns}").body["metadata"]


def test_what_they_make_of_it_is_still_the_same_object(api: ApiServer, ns: str, configure: Any) -> None:
    """Whatever one answers: nothing is stored that no client could have stored, and no answer is a surprise to this server."""
    create(api, ns, "there", data={"a": "1"})
    there = f"{CORE}/{ns}/configmaps/there"
    before = api.call("GET", there).body
    for odd in ODD:
        configure("mutating", odd, "CREATE", "UPDATE")
        made = until(lambda: (found := create(api, ns, f"c{next(number)}")).code != 201 and found, what=odd)
        changed = api.call("PATCH", there, {"data": {"a": "2"}}, content="application/merge-patch+json")
        for answer in (made, changed):
            assert answer.code in (403, 422, 500), odd
            assert "log says more" not in answer.body["message"], odd
        configure.forget()
        until(lambda: create(api, ns, f"c{next(number)}").code == 201, what=f"no more {odd}")
    assert api.call("GET", there).body == before
    assert "x" not in [each["metadata"]["name"] for each in api.call("GET", f"{CORE}/{ns}/configmaps").body["items"]]


def test_they_refuse(api: ApiServer, ns: str, configure: Any) -> None:
    create(api, ns, "there")
    configure("validating", "no", "CREATE", "UPDATE", "DELETE")
    until(lambda: create(api, ns, f"c{next(number)}").code == 418, what="the refusal")
    refused = create(api, ns, "x")
    assert refused.body["message"] == 'admission webhook "no.example.com" denied the request: not like this'
    there = f"{CORE}/{ns}/configmaps/there"
    changed = api.call("PATCH", there, {"data": {"a": "b"}}, content="application/merge-patch+json")
    assert changed.code == 418
    assert api.call("DELETE", there).code == 418
    assert "data" not in api.call("GET", there).body


def test_they_warn_and_see_both_sides(api: ApiServer, ns: str, configure: Any, hooks: Server) -> None:
    create(api, ns, "there", data={"a": "1"})
    configure("validating", "warn", "UPDATE")

    def change() -> Any:
        return api.call("PATCH", f"{CORE}/{ns}/configmaps/there", {"data": {"a": str(next(number))}},
                        content="application/merge-patch+json")
    until(lambda: "mind the gap" in (change().headers["Warning"] or ""), what="the warning")
    assert hooks.seen[-1]["oldObject"]["data"] != hooks.seen[-1]["object"]["data"]


@pytest.mark.parametrize(("path", "more"), [("slow", {"timeoutSeconds": 1}), ("wrong", {}), ("gone", {"port": 1})])
@pytest.mark.slow
def test_one_that_fails(api: ApiServer, ns: str, configure: Any, path: str, more: dict[str, Any]) -> None:
    configure("validating", path, "CREATE", failurePolicy="Fail", **more)
    until(lambda: create(api, ns, f"c{next(number)}").code == 500, what="the failure")
    assert f'failed calling webhook "{path}.example.com"' in create(api, ns, "x").body["message"]


def test_one_that_may_fail(api: ApiServer, ns: str, configure: Any) -> None:
    configure("validating", "gone", "CREATE", port=1, failurePolicy="Ignore")
    assert create(api, ns, "x").code == 201


@pytest.mark.parametrize("wrong", [
    {"matchConditions": [{"name": "a", "expression": "true"}]}, {"admissionReviewVersions": ["v1beta1"]},
    *({"clientConfig": {"url": url}} for url in ("http://a.b/x", "https://u:p@a.b/", "https://a.b/?c", "ftp://a", "https://"))])
def test_what_is_not_supported_is_refused_by_name(api: ApiServer, hooks: Server, wrong: dict[str, Any]) -> None:
    hook = {"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": "https://x.y/"}, **wrong}
    body = {"metadata": {"name": "w"}, "webhooks": [hook]}
    refused = api.call("POST", f"{CONFIGURATIONS}/validatingwebhookconfigurations", body)
    assert 400 <= refused.code < 500
    assert next(iter(wrong)) in refused.body["message"]
