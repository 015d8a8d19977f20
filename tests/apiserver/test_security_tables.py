"""Who gets at what, on objects that are there: a node and its neighbour's, tokens and certificates of every wrong kind, and
requests made to be read in two ways or to swell.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import gzip
import http.client
import json
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from minik8s.apiserver.auth import jwt
from minik8s.apiserver.auth.accounts import KEPT_AT
from minik8s.pki.authority import Authority, Identity, Pair
from nodecore.etcd.client import EtcdClient, EtcdConfig
from tests.apiserver.apiprocess import Answer, ApiServer
from tests.apiserver.test_security import raw
from tests.etcdserver import EtcdServer
from tests.labs import until

pytestmark = pytest.mark.etcd
SPACE = "/api/v1/namespaces/two-nodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
CSI = "/apis/storage.k8s.io/v1/csinodes"
WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
MERGE = "application/merge-patch+json"
MARK = {"metadata": {"annotations": {"seen": "yes"}}}
NODES = ("node-1", "node-2")
Claims = dict[str, Any]

TABLE: dict[str, tuple[str, str, Any]] = {
    "get node": ("GET", "/api/v1/nodes/{0}", None),
    "watch node": ("GET", "/api/v1/nodes?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3D{0}", None),
    "patch node": ("PATCH", "/api/v1/nodes/{0}", MARK), "status of node": ("PATCH", "/api/v1/nodes/{0}/status", {"status": {}}),
    "get pod": ("GET", SPACE + "/pods/{0}", None),
    "list pods": ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3D{0}", None),
    "status of pod": ("PATCH", SPACE + "/pods/{0}/status", {"status": {"phase": "Running"}}),
    "get secret": ("GET", SPACE + "/secrets/{0}", None), "get configmap": ("GET", SPACE + "/configmaps/{0}", None),
    "watch secret": ("GET", SPACE + "/secrets?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3D{0}", None),
    "get lease": ("GET", LEASES + "/{0}", None), "patch lease": ("PATCH", LEASES + "/{0}", MARK),
    "get csinode": ("GET", CSI + "/{0}", None), "patch csinode": ("PATCH", CSI + "/{0}", MARK),
    "token": ("POST", SPACE + "/serviceaccounts/{0}/token", {"spec": {"boundObjectRef": {"kind": "Pod", "name": "{0}"}}}),
    "evict pod": ("POST", SPACE + "/pods/{0}/eviction?dryRun=All", {"metadata": {"name": "{0}"}}),
    "delete pod": ("DELETE", SPACE + "/pods/{0}?dryRun=All", None),
}
NOT_EVEN_ITS_OWN = {
    "exec": ("GET", SPACE + "/pods/{0}/exec?command=sh", None), "proxy": ("GET", SPACE + "/pods/{0}/proxy/", None),
    "all secrets": ("GET", SPACE + "/secrets", None), "write secret": ("PATCH", SPACE + "/secrets/{0}", MARK),
    "write pod": ("PATCH", SPACE + "/pods/{0}", MARK), "bind": ("POST", SPACE + "/pods/{0}/binding", {"target": {"name": "{0}"}}),
    "ephemeral": ("PATCH", SPACE + "/pods/{0}/ephemeralcontainers", MARK),
    "plain token": ("POST", SPACE + "/serviceaccounts/{0}/token", {}),
    "roles": ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", None), "namespace": ("DELETE", SPACE, None),
}


@pytest.fixture(scope="module")
def nodes(api: ApiServer) -> Iterator[None]:
    """Two nodes, each with a pod that names a Secret, a ConfigMap and an account, a lease and a CSINode."""
    def made(path: str, body: Any) -> str:
        answer = api.call("POST", path, body)
        assert answer.code in (201, 409), answer.body
        return str(answer.body.get("metadata", {}).get("uid", ""))

    made("/api/v1/namespaces", {"metadata": {"name": "two-nodes"}})
    for name in NODES:
        meta = {"metadata": {"name": name}}
        uid = made("/api/v1/nodes", meta) or api.call("GET", f"/api/v1/nodes/{name}").body["metadata"]["uid"]
        for plural in ("secrets", "configmaps", "serviceaccounts"):
            made(f"{SPACE}/{plural}", meta)
        volumes = [{"name": "s", "secret": {"secretName": name}}, {"name": "c", "configMap": {"name": name}}]
        spec = {"nodeName": name, "serviceAccountName": name, "volumes": volumes, "containers": [{"name": "c", "image": "x"}]}
        made(f"{SPACE}/pods", {**meta, "spec": spec})
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
        made(LEASES, {"metadata": {"name": name, "ownerReferences": [owner]}, "spec": {"holderIdentity": name}})
        made(CSI, {**meta, "spec": {"drivers": []}})
    until(lambda: api.call("GET", SPACE + "/secrets/node-1", user="kubelet").code == 200, what="the pod is the node's")
    yield
    for name in NODES:
        for path in (f"{SPACE}/pods/{name}?gracePeriodSeconds=0", f"/api/v1/nodes/{name}", f"{LEASES}/{name}", f"{CSI}/{name}"):
            api.call("DELETE", path)


def asked(api: ApiServer, row: tuple[str, str, Any], node: str, user: str = "kubelet") -> Answer:
    method, path, body = row
    filled = json.loads(json.dumps(body).replace("{0}", node))
    return api.call(method, path.format(node), filled, user=user, content=MERGE if method == "PATCH" else "application/json")


@pytest.mark.parametrize("what", TABLE)
def test_a_node_and_its_neighbour(api: ApiServer, nodes: None, what: str) -> None:
    assert asked(api, TABLE[what], "node-2").code == 403
    mine = asked(api, TABLE[what], "node-1")
    assert mine.code in (200, 201), mine.body
    assert asked(api, TABLE[what], "node-1", "nobody").code == 403
    assert asked(api, TABLE[what], "node-1", "").code == 401


def test_what_no_node_may_do_to_anybody(api: ApiServer, nodes: None) -> None:
    for what, row in NOT_EVEN_ITS_OWN.items():
        assert asked(api, row, "node-1").code == 403, what
    posing = {"metadata": {"name": "posing"}, "spec": {"nodeName": "node-2", "containers": [{"name": "c", "image": "x"}]}}
    assert api.call("POST", f"{SPACE}/pods", posing, user="kubelet").code == 403
    assert api.call("POST", LEASES, {"metadata": {"name": "node-3"}}, user="kubelet").code == 403


def test_a_kubelets_tokens_are_for_whom_its_pod_speaks_to(api: ApiServer, nodes: None) -> None:
    def code(*audiences: str) -> int:
        body = {"spec": {"boundObjectRef": {"kind": "Pod", "name": "node-1"}, "audiences": list(audiences)}}
        return api.call("POST", f"{SPACE}/serviceaccounts/node-1/token", body, user="kubelet").code
    assert (code(), code("https://kubernetes.default.svc.cluster.local")) == (201, 201)
    assert (code("vault"), code("store")) == (403, 403)
    driver = {"metadata": {"name": "store.example"}, "spec": {"tokenRequests": [{"audience": "store"}]}}
    assert api.call("POST", "/apis/storage.k8s.io/v1/csidrivers", driver).code == 201
    assert (code("vault"), code("store")) == (403, 201)
    api.call("DELETE", "/apis/storage.k8s.io/v1/csidrivers/store.example")


def test_a_selector_is_read_in_one_way_only(api: ApiServer, nodes: None) -> None:
    """Who may list what has one name gets no other by a selector whose comma is none."""
    for hidden in (r"type!=\,metadata.name=node-1", r"type!=\\\,metadata.name=node-1"):
        assert api.call("GET", f"{SPACE}/secrets?fieldSelector={quote(hidden)}", user="kubelet").code == 403
    hidden = r"status.phase!=\,spec.nodeName=node-1"
    assert api.call("GET", f"/api/v1/pods?fieldSelector={quote(hidden)}", user="kubelet").code == 403
    plain = quote(r"type!=\\,metadata.name=node-1")
    found = api.call("GET", f"{SPACE}/secrets?fieldSelector={plain}", user="kubelet").body["items"]
    assert [each["metadata"]["name"] for each in found] == ["node-1"]


async def read(etcd: EtcdServer, key: str) -> bytes:
    client = EtcdClient(EtcdConfig(etcd.endpoints))
    try:
        kept = await client.get(key)
    finally:
        await client.close()
    assert kept
    return kept.value


@pytest.fixture(scope="module")
def key(api: ApiServer, api_etcd: EtcdServer, good: Claims) -> Any:
    return jwt.load_private(asyncio.run(read(api_etcd, KEPT_AT)), "test")


@pytest.fixture(scope="module")
def good(api: ApiServer) -> Claims:
    """The claims of a token that is good."""
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "token-table"}})
    path = "/api/v1/namespaces/token-table/serviceaccounts"
    until(lambda: api.call("GET", f"{path}/default").code == 200, what="the account")
    text = api.call("POST", f"{path}/default/token", {}).body["status"]["token"]
    return dict(json.loads(jwt.decode(text.split(".")[1])))


def who(api: ApiServer, token: str) -> int:
    return api.call("POST", WHOAMI, {}, user="", headers={"Authorization": f"Bearer {token}"}).code


WRONG: dict[str, Callable[[Claims], Claims]] = {
    "expired": lambda good: {**good, "exp": int(time.time()) - 60},
    "not yet": lambda good: {**good, "nbf": int(time.time()) + 600, "iat": int(time.time()) + 600},
    "another issuer": lambda good: {**good, "iss": "https://elsewhere"}, "no issuer": lambda good: {**good, "iss": None},
    "another audience": lambda good: {**good, "aud": ["vault"]}, "no audience": lambda good: {**good, "aud": []},
    "audience in part": lambda good: {**good, "aud": good["aud"][0][:-1]},
    "no end": lambda good: {name: value for name, value in good.items() if name != "exp"},
    "an end that is none": lambda good: {**good, "exp": "never"}, "true for ever": lambda good: {**good, "exp": True},
    "another account": lambda good: {**good, "sub": "system:serviceaccount:kube-system:default"},
    "a user": lambda good: {**good, "sub": "system:admin"},
    "another's uid": lambda good: {**good, "kubernetes.io": {**good["kubernetes.io"], "serviceaccount": {
        **good["kubernetes.io"]["serviceaccount"], "uid": "00000000-0000-0000-0000-000000000000"}}},
    "an account that is not": lambda good: {**good, "sub": "system:serviceaccount:token-table:nobody", "kubernetes.io": {
        **good["kubernetes.io"], "serviceaccount": {**good["kubernetes.io"]["serviceaccount"], "name": "nobody"}}},
    "a pod that is not": lambda good: {**good, "kubernetes.io": {**good["kubernetes.io"], "pod": {"name": "p", "uid": "u"}}},
    "no account": lambda good: {**good, "kubernetes.io": {}}, "not even that": lambda good: {**good, "kubernetes.io": "x"},
    "nothing": lambda good: {},
}


@pytest.mark.parametrize("what", WRONG)
def test_tokens_signed_by_us_and_wrong(api: ApiServer, key: Any, good: Claims, what: str) -> None:
    assert who(api, jwt.sign(good, key)) == 201
    assert who(api, jwt.sign(WRONG[what](good), key)) == 401


def test_a_token_of_a_secret(api: ApiServer, key: Any, good: Claims) -> None:
    """As kube-controller-manager of any version writes it: without an end or an audience, good while it stands in its Secret."""
    path = "/api/v1/namespaces/token-table/secrets"
    uid, old = good["kubernetes.io"]["serviceaccount"]["uid"], "kubernetes.io/serviceaccount/"
    claims = {"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:token-table:default",
              f"{old}namespace": "token-table", f"{old}secret.name": "legacy",
              f"{old}service-account.name": "default", f"{old}service-account.uid": uid}
    token = jwt.sign(claims, key)
    assert who(api, token) == 401, "there is no such Secret"
    kept = base64.b64encode(token.encode()).decode()
    meta = {"name": "legacy", "annotations": {"kubernetes.io/service-account.name": "default"}}
    made = api.call("POST", path, {"metadata": meta, "type": "kubernetes.io/service-account-token", "data": {"token": kept}})
    assert made.code == 201, made.body
    until(lambda: who(api, token) == 201, what="the Secret is known")
    for wrong in ({"sub": "system:admin"}, {f"{old}service-account.uid": "u"}, {f"{old}secret.name": "other"}, {"jti": "another"},
                  {f"{old}namespace": "default"}, {f"{old}secret.name": None}):
        assert who(api, jwt.sign({**claims, **wrong}, key)) == 401, wrong
    review = {"spec": {"token": token, "audiences": ["vault"]}}
    assert "authenticated" not in api.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review).body["status"]
    api.call("DELETE", f"{path}/legacy")
    until(lambda: who(api, token) == 401, what="the Secret is gone")


def test_a_token_signed_another_way(api: ApiServer, key: Any, good: Claims) -> None:
    """Whatever the head says: the key decides how it is checked."""
    head, body, signature = jwt.sign(good, key).split(".")
    for algorithm in ("none", "None", "HS256", "RS256", "ES384", "", None):
        other = jwt.encode(json.dumps({**json.loads(jwt.decode(head)), "alg": algorithm}).encode())
        for given in (signature, "", jwt.encode(b"\0" * 64)):
            assert who(api, f"{other}.{body}.{given}") == 401, algorithm


BROKEN_OFF = r"(?i)alert|unknown ca|reset|closed|EOF|broken|expired|unsupported"


def test_certificates_of_every_wrong_kind(api: ApiServer) -> None:
    admin = Identity("admin", ("system:masters",))
    ours = Authority(Pair(api.file("ca.crt").read_bytes(), api.file("ca.key").read_bytes()))
    own = ec.generate_private_key(ec.SECP256R1())
    serving = ours.sign(admin, own.public_key(), [ExtendedKeyUsageOID.SERVER_AUTH], datetime.timedelta(hours=1))
    kinds = {"expired": ours.issue(admin, -datetime.timedelta(minutes=5)), "of another authority": Authority().issue(admin),
             "for servers": Pair(serving, _pem(own)), "its own authority": Authority().pair}
    for what, pair in kinds.items():
        api.file("wrong.crt").write_bytes(pair.certificate)
        api.file("wrong.key").write_bytes(pair.key)
        # A broken pipe stays in OpenSSL's queue of errors, which is the thread's: Python 3.13 tells the next connection of it.
        with ThreadPoolExecutor(1) as apart, pytest.raises(OSError, match=BROKEN_OFF):
            pytest.fail(f"{what}: {apart.submit(api.call, 'GET', '/version', user='wrong').result().code}")


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def test_a_header_cannot_be_split(api: ApiServer) -> None:
    """What comes back in a header came from outside: it stays one line of one header."""
    name = "x\r\nX-Evil: yes\r\n\r\n<html>"
    body = {"metadata": {"name": "w"}, name: 1, "\x01": 2}
    answer = api.call("POST", "/api/v1/namespaces/default/configmaps?dryRun=All&fieldValidation=Warn", body)
    assert answer.code == 201
    assert answer.headers.get("X-Evil") is None
    assert len(answer.headers.get_all("Warning")) == 2
    for path in ("/api/v1/pods%0d%0aX-Evil:%20yes", "/api/v1/namespaces/a%0d%0aX-Evil:%20b/pods", "/version%0d%0aX-Evil:%20yes",
                 "/openapi/v3/api/v1?hash=%0d%0aX-Evil:%20yes"):
        head = raw(api, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(), "admin").split(b"\r\n\r\n")[0]
        assert b"x-evil:" not in head.lower().replace(b"%0d%0a", b""), head


def test_two_requests_in_one_are_two(api: ApiServer) -> None:
    """A body is never read as the next request: each of them is asked who sent it."""
    inner = b"GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n"
    start = b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for head in (b"Content-Length: %d\r\n\r\n" % len(inner), b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(inner)):
        closing = b"\r\n0\r\n\r\n" if b"chunked" in head else b""
        answer = raw(api, start + head + inner + closing, "nobody")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"403" in answer.split(b"\r\n")[0]
    for odd in (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"Transfer-Encoding: xchunked\r\n",
                b"Transfer-Encoding : chunked\r\n", b"Content-Length: 0x10\r\n", b"Content-Length: +5\r\n",
                b"Content-Length: 5,5\r\n"):
        answer = raw(api, start + odd + b"\r\n0\r\n\r\n" + inner, "nobody", seconds=60)
        assert b"HTTP/1.1 200" not in answer, odd


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.slow
def test_a_body_that_swells(api: ApiServer, encoding: str) -> None:
    pack, letter = (gzip.compress, b"a") if encoding == "gzip" else (zlib.compress, b" ")
    packed = pack(b'{"metadata":{"name":"' + letter * 200_000_000 + b'"}}', 1)
    before = api.resident()
    answer = api.call("POST", f"{SPACE}/configmaps", packed, headers={"Content-Encoding": encoding})
    assert answer.code in (400, 413, 415), answer.body
    assert api.resident() - before < 30_000_000


def test_a_body_without_an_end(api: ApiServer) -> None:
    """More than is allowed, in pieces, with no length told: refused on the way."""
    connection = http.client.HTTPSConnection("127.0.0.1", api.port, timeout=60, context=api.context())
    connection.putrequest("POST", f"{SPACE}/configmaps")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.putheader("Content-Type", "application/json")
    connection.endheaders()
    piece, before = b" " * 65536, api.resident()
    try:
        for _ in range(200):
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    except OSError:
        pass  # it stopped listening
    else:
        assert connection.getresponse().status == 413
    assert api.resident() - before < 30_000_000
    connection.close()
