"""ServiceAccount tokens on a live server: made, good for what they are for, and void once what they are bound to is gone."""

from __future__ import annotations

import base64
import itertools
import json
import time
from typing import Any

import pytest

from minik8s.apiserver.auth import jwt
from nodecore.errors import Invalid
from tests.apiserver.apiprocess import Answer, ApiServer
from tests.labs import until

CORE = "/api/v1/namespaces"
WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
number = itertools.count()


@pytest.fixture
def ns(api: ApiServer) -> str:
    name = f"tok-{next(number)}"
    assert api.call("POST", CORE, {"metadata": {"name": name}}).code == 201
    until(lambda: api.call("GET", f"{CORE}/{name}/serviceaccounts/default").code == 200, what="the account `default`")
    return name


def request(api: ApiServer, ns: str, account: str = "default", user: str = "admin", **spec: Any) -> Answer:
    return api.call("POST", f"{CORE}/{ns}/serviceaccounts/{account}/token", {"spec": spec}, user=user)


def token(api: ApiServer, ns: str, account: str = "default", **spec: Any) -> str:
    made = request(api, ns, account, **spec)
    assert made.code == 201, made.body
    return str(made.body["status"]["token"])


def claims(text: str) -> dict[str, Any]:
    part = text.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def who(api: ApiServer, bearer: str) -> Answer:
    return api.call("POST", WHOAMI, {}, user="", headers={"Authorization": f"Bearer {bearer}"})


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "i"}]
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": {"containers": containers, **spec}}


def test_a_token_is_its_account(api: ApiServer, ns: str) -> None:
    text = token(api, ns)
    info = who(api, text).body["status"]["userInfo"]
    assert info["username"] == f"system:serviceaccount:{ns}:default"
    assert info["groups"] == ["system:serviceaccounts", f"system:serviceaccounts:{ns}", "system:authenticated"]
    assert info["uid"] == api.call("GET", f"{CORE}/{ns}/serviceaccounts/default").body["metadata"]["uid"]
    found = claims(text)
    assert found["exp"] - found["iat"] == 3600
    assert found["aud"] == ["https://kubernetes.default.svc.cluster.local"]
    assert api.call("GET", f"{CORE}/{ns}/secrets", user="", headers={"Authorization": f"Bearer {text}"}).code == 403


def test_a_token_for_somebody_else(api: ApiServer, ns: str) -> None:
    text = token(api, ns, audiences=["vault"])
    assert who(api, text).code == 401
    review = {"spec": {"token": text, "audiences": ["vault", "other"]}}
    status = api.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review).body["status"]
    assert (status["authenticated"], status["audiences"]) == (True, ["vault"])
    status = api.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": text}}).body["status"]
    assert "authenticated" not in status


def test_a_token_dies_with_its_account(api: ApiServer, ns: str) -> None:
    assert api.call("POST", f"{CORE}/{ns}/serviceaccounts", {"metadata": {"name": "bot"}}).code == 201
    text = token(api, ns, "bot")
    assert who(api, text).code == 201
    api.call("DELETE", f"{CORE}/{ns}/serviceaccounts/bot")
    until(lambda: who(api, text).code == 401, what="the token is void")
    assert api.call("POST", f"{CORE}/{ns}/serviceaccounts", {"metadata": {"name": "bot"}}).code == 201
    assert who(api, token(api, ns, "bot")).code == 201
    assert who(api, text).code == 401, "another account of the same name"


def test_a_secret_for_an_accounts_token_is_filled(api: ApiServer, ns: str) -> None:
    """As soon as the account is there; the token is void once the Secret is gone."""
    secret = {"type": "kubernetes.io/service-account-token", "metadata": {
        "name": "lasting", "annotations": {"kubernetes.io/service-account.name": "late"}}}
    assert api.call("POST", f"{CORE}/{ns}/secrets", secret).code == 201
    uid = api.call("POST", f"{CORE}/{ns}/serviceaccounts", {"metadata": {"name": "late"}}).body["metadata"]["uid"]
    found = until(lambda: (body := api.call("GET", f"{CORE}/{ns}/secrets/lasting").body).get("data") and body, what="the token")
    data = {key: base64.b64decode(value).decode() for key, value in found["data"].items()}
    assert (data["namespace"], data["ca.crt"][:27]) == (ns, "-----BEGIN CERTIFICATE-----")
    assert found["metadata"]["annotations"]["kubernetes.io/service-account.uid"] == uid
    assert who(api, data["token"]).body["status"]["userInfo"]["username"] == f"system:serviceaccount:{ns}:late"
    assert "lasting" in api.kubectl("-n", ns, "describe", "serviceaccount", "late").stdout
    api.call("DELETE", f"{CORE}/{ns}/secrets/lasting")
    until(lambda: who(api, data["token"]).code == 401, what="the token is void")


def test_a_token_dies_with_its_pod(api: ApiServer, ns: str) -> None:
    made = api.call("POST", f"{CORE}/{ns}/pods", pod("p")).body
    text = token(api, ns, boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made["metadata"]["uid"]})
    info = who(api, text).body["status"]["userInfo"]
    assert info["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    api.call("DELETE", f"{CORE}/{ns}/pods/p?gracePeriodSeconds=0")
    until(lambda: who(api, text).code == 401, what="the token is void")


@pytest.mark.parametrize(("spec", "code"), [
    ({"expirationSeconds": 10}, 422), ({"expirationSeconds": "x"}, 422), ({"expirationSeconds": 2**40}, 422),
    ({"audiences": "x"}, 400), ({"boundObjectRef": {"kind": "Pod", "name": "none"}}, 404),
    ({"boundObjectRef": {"kind": "Node2"}}, 400),
    ({"boundObjectRef": 5}, 400),
])
def test_what_is_no_request(api: ApiServer, ns: str, spec: dict[str, Any], code: int) -> None:
    assert request(api, ns, **spec).code == code
    assert request(api, ns, "none").code == 404


def test_forged(api: ApiServer, ns: str) -> None:
    good = token(api, ns)
    head, body, signature = good.split(".")
    other = {**claims(good), "sub": "system:serviceaccount:kube-system:default"}
    stranger = jwt.load_private(jwt.make_key(), "test")
    none = jwt.encode(b'{"alg":"none"}')
    for text in (f"{head}.{jwt.encode(json.dumps(other).encode())}.{signature}", f"{head}.{body}.", f"{none}.{body}.",
                 jwt.sign(claims(good), stranger), f"{head}.{body}.{signature[:-4]}AAAA", "a.b.c", "..", f"{good}.x",
                 "x" * 40000):
        assert who(api, text).code == 401, text[:80]
    assert who(api, good).code == 201


def test_keys_are_published(api: ApiServer, ns: str) -> None:
    text = token(api, ns)
    keys = api.call("GET", "/openid/v1/jwks").body["keys"]
    kid = json.loads(jwt.decode(text.split(".")[0]))["kid"]
    assert [key["kid"] for key in keys if key["kid"] == kid]
    document = api.call("GET", "/.well-known/openid-configuration", user="", headers={"Authorization": f"Bearer {text}"})
    assert document.body["issuer"] == claims(text)["iss"]
    assert document.body["jwks_uri"].endswith("/openid/v1/jwks")
    assert api.call("GET", "/openid/v1/jwks", user="").code == 401


def test_jwt_by_itself() -> None:
    key = jwt.load_private(jwt.make_key(), "test")
    public = jwt.key_of(key.public_key(), "test")
    assert jwt.verify(jwt.sign({"a": 1}, key), [public]) == {"a": 1}
    with pytest.raises(Invalid):
        jwt.verify(jwt.sign({"a": 1}, key), [])


def bootstrap(api: ApiServer, token_id: str, **more: str) -> str:
    data = {"token-id": token_id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:workers,system:masters", **more}
    api.call("DELETE", f"{CORE}/kube-system/secrets/bootstrap-token-{token_id}")
    made = api.call("POST", f"{CORE}/kube-system/secrets", {
        "metadata": {"name": f"bootstrap-token-{token_id}"}, "type": "bootstrap.kubernetes.io/token",
        "data": {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in data.items()}})
    assert made.code == 201, made.body
    return f"{token_id}.0123456789abcdef"


def test_bootstrap_tokens(api: ApiServer) -> None:
    good = bootstrap(api, "abcdef")
    until(lambda: who(api, good).code == 201, what="the token is good")
    info = who(api, good).body["status"]["userInfo"]
    assert info["username"] == "system:bootstrap:abcdef"
    assert info["groups"] == ["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]
    assert who(api, "abcdef.0123456789abcdee").code == 401
    assert api.call("GET", f"{CORE}/default/secrets", user="", headers={"Authorization": f"Bearer {good}"}).code == 403
    past = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 5))
    for name, more in (("expire", {"expiration": past}), ("unused", {"usage-bootstrap-authentication": "false"}),
                       ("badexp", {"expiration": "soon"})):
        text = bootstrap(api, name, **more)
        where = f"{CORE}/kube-system/secrets?fieldSelector=metadata.name%3Dbootstrap-token-{name}"
        until(lambda where=where: api.call("GET", where).body["items"], what="it is there")
        assert who(api, text).code == 401, name


def test_a_token_without_an_audience_is_for_this_server_only(api: ApiServer) -> None:
    text = bootstrap(api, "audien")
    until(lambda: who(api, text).code == 201, what="the token")

    def review(*audiences: str) -> Any:
        body = {"spec": {"token": text, "audiences": list(audiences)}}
        return api.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body).body["status"]
    assert review("vault").get("authenticated") is None
    own = "https://kubernetes.default.svc.cluster.local"
    assert (review()["authenticated"], review("vault", own)["audiences"]) == (True, [own])


def test_acting_as_somebody(api: ApiServer, ns: str) -> None:
    def whoami(user: str, **headers: str) -> Answer:
        return api.call("POST", WHOAMI, {}, user=user, headers={f"Impersonate-{key}": value for key, value in headers.items()})
    acted = whoami("admin", User="jane", Group="staff")
    assert acted.body["status"]["userInfo"]["username"] == "jane"
    assert acted.body["status"]["userInfo"]["groups"] == ["staff", "system:authenticated"]
    assert whoami("nobody", User="jane").code == 403
    assert whoami("nobody", User="system:masters").code == 403
    assert whoami("admin", Group="staff").code == 400
    account = whoami("admin", User=f"system:serviceaccount:{ns}:default").body["status"]["userInfo"]
    assert account["groups"][0] == "system:serviceaccounts"
    denied = api.call("GET", f"{CORE}/{ns}/secrets", headers={"Impersonate-User": "jane"})
    assert denied.code == 403
    assert 'User "jane"' in denied.body["message"]


def test_a_node_asks_for_its_pods_only(api: ApiServer, ns: str) -> None:
    here = api.call("POST", f"{CORE}/{ns}/pods", pod("here", nodeName="node-1")).body["metadata"]["uid"]
    there = api.call("POST", f"{CORE}/{ns}/pods", pod("there", nodeName="node-2")).body["metadata"]["uid"]

    def bound(name: str, uid: str) -> Answer:
        return request(api, ns, user="kubelet", boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid})
    until(lambda: bound("here", here).code == 201, what="a token for its own pod")
    assert bound("there", there).code == 403
    assert request(api, ns, user="kubelet").code == 403
