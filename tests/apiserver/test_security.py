"""Who gets in with what, and what malicious requests do: a Status, never a traceback, and the server lives on."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from typing import Any

import pytest

from minik8s.apiserver.auth import jwt
from minik8s.apiserver.auth.accounts import KEPT_AT
from minik8s.pki.authority import Authority, Identity
from nodecore.etcd.client import EtcdClient, EtcdConfig
from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer
from tests.labs import until
from tests.promised import in_time

CORE = "/api/v1/namespaces/default"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
POD = {"metadata": {"name": "sec"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
VERBS: dict[str, tuple[str, str, Any]] = {
    "get": ("GET", f"{CORE}/secrets/x", None), "list": ("GET", f"{CORE}/secrets", None),
    "list all": ("GET", "/api/v1/secrets", None), "watch": ("GET", "/api/v1/secrets?watch=1&timeoutSeconds=1", None),
    "create": ("POST", f"{CORE}/secrets", {"metadata": {"name": "x"}}),
    "update": ("PUT", f"{CORE}/secrets/x", {"metadata": {"name": "x"}}), "patch": ("PATCH", f"{CORE}/secrets/x", {}),
    "delete": ("DELETE", f"{CORE}/secrets/x", None), "deletecollection": ("DELETE", f"{CORE}/secrets", None),
    "bind": ("POST", f"{CORE}/pods/x/binding", {}), "exec": ("POST", f"{CORE}/pods/x/exec?command=sh", None),
    "log": ("GET", f"{CORE}/pods/x/log", None), "evict": ("POST", f"{CORE}/pods/x/eviction", {}),
    "token": ("POST", f"{CORE}/serviceaccounts/default/token", {}),
    "role": ("POST", f"{RBAC}/clusterroles", {"metadata": {"name": "x"}}),
    "approve": ("PUT", "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval", {}),
    "review": ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": "x"}}),
    "sar": ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": {"user": "x"}}),
    "metrics": ("GET", "/metrics", None), "node": ("DELETE", "/api/v1/nodes/node-2", None),
    "attach": ("POST", f"{CORE}/pods/x/attach", None), "portforward": ("POST", f"{CORE}/pods/x/portforward", None),
    "proxy": ("GET", f"{CORE}/pods/x/proxy/", None), "proxy to a service": ("GET", f"{CORE}/services/x/proxy/", None),
    "proxy to a node": ("GET", "/api/v1/nodes/node-2/proxy/metrics", None),
    "status": ("PUT", f"{CORE}/pods/x/status", {}), "debug": ("PATCH", f"{CORE}/pods/x/ephemeralcontainers", {}),
    "finalize": ("PUT", "/api/v1/namespaces/default/finalize", {}), "definition": (
        "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {"metadata": {"name": "x"}}),
    "webhook": ("POST", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", {"metadata": {"name": "x"}}),
    "scale": ("PUT", "/apis/apps/v1/namespaces/default/deployments/x/scale", {}),
}
IDENTITIES = {"": 401, "nobody": 403, "account": 403, "proxy": 403, "forged": 401, "garbage": 401, "basic": 401,
              "expired": 401, "not yet": 401, "revoked": 401, "another audience": 401}


@pytest.fixture(scope="module")
def bearers(api: ApiServer, api_etcd: EtcdServer) -> dict[str, str]:
    """What is said in the header, by who says it: an account without rights, and all that is not to be believed."""
    until(lambda: api.call("GET", f"{CORE}/serviceaccounts/default").code == 200, what="the account")

    def token(account: str) -> str:
        return str(api.call("POST", f"{CORE}/serviceaccounts/{account}/token", {}).body["status"]["token"])

    good = token("default")
    api.call("POST", f"{CORE}/serviceaccounts", {"metadata": {"name": "revoked"}})
    revoked = token("revoked")
    assert api.call("DELETE", f"{CORE}/serviceaccounts/revoked").code == 200
    claims = json.loads(jwt.decode(good.split(".")[1]))
    key = jwt.load_private(asyncio.run(kept(api_etcd, KEPT_AT)), "test")
    signed = {what: jwt.sign({**claims, **other}, key) for what, other in {
        "expired": {"exp": int(time.time()) - 60}, "not yet": {"nbf": int(time.time()) + 600},
        "another audience": {"aud": ["vault"]}}.items()}
    return {name: f"Bearer {text}" for name, text in {"account": good, "forged": f"{good[:-6]}AAAAAA", "garbage": "x.y",
                                                      "revoked": revoked, **signed}.items()} | {"basic": "Basic eDp5"}


async def kept(etcd: EtcdServer, key: str) -> bytes:
    async with EtcdClient(EtcdConfig(etcd.endpoints)) as client:
        found = await client.get(key)
    assert found
    return found.value


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_by_identity(api: ApiServer, bearers: dict[str, str], verb: str) -> None:
    method, path, body = VERBS[verb]
    for who, code in IDENTITIES.items():
        headers = {"Authorization": bearers[who]} if who in bearers else None
        answer = api.call(method, path, body, user="" if who in bearers else who, headers=headers,
                          content="application/merge-patch+json" if method == "PATCH" else "application/json")
        assert answer.code == code, (who, answer.body)
        assert answer.body["kind"] == "Status"


@pytest.mark.parametrize("verb", [each for each in VERBS if each not in ("review", "sar")])
def test_a_node_and_others_objects(api: ApiServer, verb: str) -> None:
    method, path, body = VERBS[verb]
    content = "application/merge-patch+json" if method == "PATCH" else "application/json"
    answer = api.call(method, path, body, user="kubelet", content=content)
    assert answer.code == 403, answer.body


def test_a_certificate_of_another_ca(api: ApiServer) -> None:
    """It gets no further than the handshake, whatever it would ask."""
    pair = Authority().issue(Identity("admin", ("system:masters",)))
    api.file("stranger.crt").write_bytes(pair.certificate)
    api.file("stranger.key").write_bytes(pair.key)
    for method, path, body in (*VERBS.values(), ("GET", "/version", None)):
        with pytest.raises(OSError, match=r"(?i)unknown ca|alert|reset|closed|EOF|broken"):
            api.call(method, path, body, user="stranger")
    assert api.call("GET", "/version").code == 200


@pytest.mark.parametrize("path", [
    "/api/v1/namespaces/default/../../../metrics", "//metrics", "/api/v1/namespaces/default/secrets/..%2f..%2f..%2fmetrics",
    "/api/v1/namespaces/default%2fsecrets", "/%61pi/v1/secrets", "/api/v1/secrets/", "/api/v1//secrets",
    "/api/v1/namespaces/default/secrets;x",
    "/healthz/../metrics", "/healthz/..%2fmetrics", "/version/../api/v1/secrets", "/api/v1/secrets%00", "/API/v1/secrets",
    "/healthz%2f..%2fmetrics", "/livez/../readyz/../metrics", "/api/v1/secrets?watch=%00", "/\\api\\v1\\secrets",
])
@pytest.mark.parametrize("user", ["", "nobody"])
def test_path_tricks(api: ApiServer, path: str, user: str) -> None:
    answer = raw(api, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(), user)
    code = int(answer.split(b" ", 2)[1])
    assert code in (400, 401, 403, 404), answer[:300]


def raw(api: ApiServer, data: bytes, user: str = "", *, seconds: float = 60) -> bytes:
    with socket.create_connection(("127.0.0.1", api.port), timeout=seconds) as plain, \
            api.context(user).wrap_socket(plain, server_hostname="localhost") as sock:
        sock.sendall(data)
        found = b""
        while chunk := sock.recv(65536):
            found += chunk
            if b"\r\n\r\n" in found and b"Content-Length: " in found:
                length = re.search(rb"Content-Length: (\d+)", found)
                if length and len(found.split(b"\r\n\r\n", 1)[1]) >= int(length.group(1)):
                    break
        return found


@pytest.mark.parametrize("head", [
    b"GET /version HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nConnection: close\r\n\r\n",
    b"GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\nImpersonate-User: a\r\nImpersonate-User: b\r\nConnection: close\r\n\r\n",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /version x\r\n\r\n", b"\x00\x01\x02\r\n\r\n", b"GET /version HTTP/9.9\r\n\r\n",
    b"GET /version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"x" * 70000 + b"\r\n\r\n",
    b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
])
def test_heads_that_are_none(api: ApiServer, head: bytes) -> None:
    """Each is told so by a Status and cut off, in the log is no traceback of it."""
    answer = raw(api, head, "admin")
    status = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    assert (answer.split(b" ", 2)[1], status["kind"], status["reason"]) == (b"400", "Status", "BadRequest"), answer[:300]
    assert api.call("GET", "/version").code == 200
    assert "Traceback" not in api.file("log").read_text()


def test_the_log_is_not_filled_by_noise(api: ApiServer) -> None:
    before = api.file("log").read_text().count("no request from")
    for _ in range(30):
        raw(api, b"\x00\x01\r\n\r\n")
    raw(api, b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "nobody")
    log = api.file("log").read_text()
    assert log.count("no request from") <= before + 3
    assert "Traceback" not in log


DEEP = b'{"metadata":{"name":"x","annotations":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}}"


@pytest.mark.parametrize(("content", "body"), [
    ("application/json", DEEP), ("application/json", b"{" * 100000), ("application/json", b'{"a":1e99999}'),
    ("application/json", b'{"metadata":{"name":"x"},"metadata":{"name":"y"}}' * 2), ("application/json", b"\xff\xfe"),
    ("application/vnd.kubernetes.protobuf", b"k8s\0" + b"\xff" * 1000),
    ("application/vnd.kubernetes.protobuf", b"k8s\0" + b"\x0a" * 5000),
    ("application/vnd.kubernetes.protobuf", b"k8s\0\x12\xff\xff\xff\xff\x0f"), ("application/yaml", b"a: &a [*a]"),
    ("application/yaml", b"!!python/object/apply:os.system [id]"), ("application/yaml", b"[" * 50000), ("text/html", b"<html>"),
    ("application/json; charset=\"" + "x" * 500, b"{}"),
])
def test_bodies_that_hurt(api: ApiServer, content: str, body: bytes) -> None:
    before = api.resident()
    answer = api.call("POST", f"{CORE}/configmaps", body, content=content)
    assert 400 <= answer.code < 500, answer.body
    assert answer.body["kind"] == "Status"
    assert api.resident() - before < 30_000_000
    assert "Traceback" not in json.dumps(answer.body)


def test_slow_clients_hold_nobody_up(api: ApiServer) -> None:
    held = []
    try:
        for _ in range(50):
            plain = socket.create_connection(("127.0.0.1", api.port), timeout=60)
            sock = api.context("admin").wrap_socket(plain, server_hostname="localhost")
            sock.sendall(b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            held.append(sock)
        def ask() -> float:
            began = time.monotonic()
            assert api.call("GET", "/api/v1/namespaces/default").code == 200
            return time.monotonic() - began

        in_time(ask, 2, "an answer beside those who hold up")
    finally:
        for sock in held:
            sock.close()


def test_no_plain_http(api: ApiServer) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as sock:
        sock.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in sock.recv(100)
