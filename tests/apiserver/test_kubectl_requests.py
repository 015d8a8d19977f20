"""Every request recorded of kubectl 1.32, made one by one: each command in a namespace of its own, with the objects it names.

The recording (kubectl_requests.txt) says what kubectl sends; here stands what must come back. What other issues will serve
is refused by name: EXPECTED tells those from the rest.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.apiprocess import ApiServer

pytestmark = pytest.mark.etcd
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
DISCOVERY = ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
             "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json")
PROTOBUF = "application/vnd.kubernetes.protobuf"
ACCEPT = {"json": "application/json", "any": "application/json, */*", "table": TABLE, "discovery": DISCOVERY,
          "protobuf": f"{PROTOBUF},application/json", "none": "",
          "openapi2": "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"}
CONTENT = {"json": "application/json", "protobuf": PROTOBUF, "strategic": "application/strategic-merge-patch+json",
           "merge": "application/merge-patch+json", "apply": "application/apply-patch+yaml"}
EXPECTED = (  # by pattern of "METHOD path body"; all else must succeed
    (r".*/(log|exec|attach|portforward)(\?|$| )", 400, "does not have a host assigned"),
)
TEMPLATE = {"metadata": {"labels": {"app": "d1"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
SPECS: dict[str, dict[str, Any]] = {
    "pods": {"kind": "Pod", "apiVersion": "v1", "spec": {"containers": [{"name": "c", "image": "x"}]}},
    "services": {"kind": "Service", "apiVersion": "v1", "spec": {"ports": [{"port": 80}], "selector": {"app": "d1"}}},
    "configmaps": {"kind": "ConfigMap", "apiVersion": "v1", "data": {"k": "v"}},
    "nodes": {"kind": "Node", "apiVersion": "v1"},
    "deployments": {"kind": "Deployment", "apiVersion": "apps/v1",
                    "spec": {"selector": {"matchLabels": {"app": "d1"}}, "template": TEMPLATE}},
    "leases": {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "spec": {"holderIdentity": "n1"}},
}
NEW = {"pods": "r1", "services": "d1", "configmaps": "cm1"}
NAMED = re.compile(r"^(/apis?/.*/(pods|services|configmaps|nodes|deployments|leases))/([a-z0-9]+)")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    accept: str
    body: str = ""
    upgrade: str = ""


def recorded() -> list[tuple[str, list[Request]]]:
    found: list[tuple[str, list[Request]]] = []
    for line in Path(__file__).with_name("kubectl_requests.txt").read_text().splitlines():
        if line.startswith("kubectl"):
            found.append((line, []))
        elif line.startswith(" "):
            method, path, accept, *more = line.split()
            found[-1][1].append(Request(method, path, accept, **dict(each.split("=", 1) for each in more)))
    return found


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def envelope(api_version: str, kind: str, raw: bytes = b"") -> bytes:
    return b"k8s\0" + field(1, field(1, api_version.encode()) + field(2, kind.encode())) + field(2, raw)


def protobuf_body(path: str) -> bytes:
    if path.endswith("/selfsubjectaccessreviews"):
        asked = field(2, b"get") + field(5, b"pods")
        return envelope("authorization.k8s.io/v1", "SelfSubjectAccessReview", field(2, field(1, asked)))
    if path.endswith("/selfsubjectreviews"):
        return envelope("authentication.k8s.io/v1", "SelfSubjectReview")
    if path.endswith("/token"):
        return envelope("authentication.k8s.io/v1", "TokenRequest")
    return envelope("v1", "DeleteOptions")


class Replay:
    """The requests of one command, against the namespace of that command."""

    def __init__(self, api: ApiServer, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self.uid, self.version = "", "0"
        self.connection = api.connection()

    def begin(self, requests: list[Request]) -> None:
        assert self.api.call("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}}).code == 201
        made = {self.place(each.path).partition("?")[0].rpartition("/")[2] for each in requests if each.method == "POST"}
        for request in requests:
            named = NAMED.match(self.place(request.path))
            if named and named[2] not in made:
                body = {**SPECS[named[2]], "metadata": {"name": named[3]}}
                assert self.api.call("POST", named[1], body).code in (201, 409)

    def place(self, path: str) -> str:
        path = path.replace("/namespaces/default/", f"/namespaces/{self.namespace}/").replace("n1", f"n1{self.namespace}")
        return path.replace("<uid>", self.uid).replace("<version>", self.version)

    def body(self, request: Request, path: str) -> bytes | None:
        if not request.body:
            return None
        if request.body == "protobuf":
            return protobuf_body(path)
        plain, _, _ = path.partition("?")
        if request.method == "POST":
            plural = plain.rpartition("/")[2]
            return json.dumps({**SPECS[plural], "metadata": {"name": NEW[plural]}}).encode()
        if request.method == "PUT":
            return json.dumps({**SPECS["configmaps"], "metadata": {"name": "cm1"}, "data": {"k": "other"}}).encode()
        if request.method == "DELETE":
            return json.dumps({"propagationPolicy": "Background"}).encode()
        if request.body == "apply":
            return json.dumps({**SPECS["configmaps"], "metadata": {"name": "cm1"}}).encode()
        change = {"spec": {"replicas": 2}} if plain.endswith("/scale") else {"metadata": {"labels": {"a": "b"}}}
        return json.dumps(change).encode()

    def send(self, request: Request) -> tuple[int, str, str]:
        """The status, the content type and the text; of a watch only that it began."""
        path = self.place(request.path)
        headers = {"Accept": ACCEPT[request.accept]} if ACCEPT[request.accept] else {}
        if request.body:
            headers["Content-Type"] = CONTENT[request.body]
        if request.upgrade:
            kind, _, protocol = request.upgrade.partition(":")
            headers |= {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Protocol": protocol,
                        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg=="} if kind == "websocket" \
                else {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": protocol}
        self.connection.request(request.method, path, self.body(request, path), headers)
        reply = self.connection.getresponse()
        if reply.status == 200 and "watch=true" in path:
            self.connection.close()
            return 200, "", ""
        text = reply.read().decode(errors="replace")
        if reply.headers.get("Content-Type", "").startswith("application/json") and text.startswith("{"):
            meta = json.loads(text).get("metadata") or {}
            self.uid, self.version = meta.get("uid") or self.uid, meta.get("resourceVersion") or self.version
        return reply.status, reply.headers.get("Content-Type", ""), text


def expected(request: Request, deleted: set[str]) -> tuple[int, str]:
    if request.method == "GET" and request.path in deleted:
        return 404, "not found"
    line = f"{request.method} {request.path} {request.body}"
    return next(((code, words) for pattern, code, words in EXPECTED if re.match(pattern, line)), (200, ""))


@pytest.mark.parametrize(("number", "command", "requests"), [(number, *each) for number, each in enumerate(recorded())],
                         ids=[command for command, _ in recorded()])
def test_what_kubectl_asks_is_answered(api: ApiServer, number: int, command: str, requests: list[Request]) -> None:
    replay = Replay(api, f"replay{number}")
    replay.begin(requests)
    deleted: set[str] = set()
    for request in requests:
        status, content, text = replay.send(request)
        code, words = expected(request, deleted)
        told = f"{command}: {request} was answered {status} {text[:300]}"
        assert status // 100 == code // 100 if code == 200 else status == code, told
        assert words in text, told
        if status >= 400:
            assert json.loads(text)["kind"] == "Status" if "json" in content else text, told
        if request.accept == "table" and "watch=true" not in request.path:
            assert json.loads(text)["kind"] == "Table", told
        if request.method == "DELETE":
            deleted.add(request.path)
    replay.connection.close()
