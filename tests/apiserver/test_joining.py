"""Certificates by request: what is signed by itself, what waits for people, what is never signed; joining from the outside."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from minik8s.pki import requests
from minik8s.pki.authority import Authority, Identity
from nodecore.errors import Invalid
from tests.apiserver.apiprocess import ROOT, Answer, ApiServer
from tests.etcdserver import EtcdServer
from tests.labs import until

PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
NODE = Identity("system:node:node-1", ("system:nodes",))
number = itertools.count()


def minik8s(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "minik8s", *argv], cwd=ROOT, capture_output=True, text=True, check=False,
                          env=dict(os.environ), timeout=240)


def ask(api: ApiServer, signer: str, identity: Identity, user: str = "admin", **spec: Any) -> str:
    name = f"csr-{next(number)}"
    _, request = requests.make(identity)
    made = api.call("POST", PATH, {"metadata": {"name": name}, "spec": {
        "signerName": signer, "usages": ["digital signature", requests.USAGES[signer]],
        "request": base64.b64encode(request).decode(), **spec}}, user=user)
    assert made.code == 201, made.body
    return name


def status(api: ApiServer, name: str) -> dict[str, Any]:
    return dict(api.call("GET", f"{PATH}/{name}").body.get("status") or {})


def conditions(api: ApiServer, name: str) -> list[str]:
    return [each["type"] for each in status(api, name).get("conditions") or ()]


def approve(api: ApiServer, name: str, user: str = "admin") -> Answer:
    verdict = {"type": "Approved", "status": "True", "reason": "Test", "message": ""}
    return api.call("PATCH", f"{PATH}/{name}/approval", {"status": {"conditions": [verdict]}}, user=user,
                    content="application/merge-patch+json")


def test_a_client_waits_for_a_person(api: ApiServer) -> None:
    name = ask(api, requests.CLIENT, Identity("jane", ("staff",)), user="admin")
    assert api.call("GET", f"{PATH}/{name}").body["spec"]["username"] == "admin"
    assert approve(api, name, "nobody").code == 403
    assert "certificate" not in status(api, name)
    assert approve(api, name).code == 200
    pem = base64.b64decode(until(lambda: status(api, name).get("certificate"), what="the certificate"))
    found = x509.load_pem_x509_certificate(pem)
    assert found.subject.rfc4514_string() == "CN=jane,O=staff"


def test_a_kubelet_renews_its_own(api: ApiServer) -> None:
    name = ask(api, requests.KUBELET_CLIENT, NODE, user="kubelet")
    until(lambda: status(api, name).get("certificate"), what="the certificate")
    other = ask(api, requests.KUBELET_CLIENT, Identity("system:node:node-2", ("system:nodes",)), user="kubelet")
    last = ask(api, requests.KUBELET_CLIENT, NODE, user="kubelet")
    until(lambda: status(api, last).get("certificate"), what="a later one")
    assert status(api, other) == {}, "not its own"


@pytest.mark.parametrize(("signer", "identity", "usages"), [
    (requests.KUBELET_CLIENT, Identity("jane"), None), (requests.KUBELET_CLIENT, Identity("system:node:x"), None),
    (requests.KUBELET_SERVING, NODE, None), (requests.CLIENT, Identity("jane", ("system:masters",)), None),
    (requests.CLIENT, Identity("jane"), ["server auth"]), (requests.CLIENT, Identity("jane"), ["client auth", "cert sign"]),
])
def test_what_is_never_signed(api: ApiServer, signer: str, identity: Identity, usages: list[str] | None) -> None:
    name = ask(api, signer, identity, **({"usages": usages} if usages else {}))
    until(lambda: "Failed" in conditions(api, name), what="a verdict")
    approve(api, name)
    assert "certificate" not in status(api, name)


def test_a_serving_certificate_for_ones_own_only(api: ApiServer) -> None:
    """What a node says of its addresses is no proof: those that somebody else may have wait for a person."""
    others = "192.0.2.71"
    api.call("POST", "/api/v1/nodes", {"metadata": {"name": "serves-2"}, "status": {
        "addresses": [{"type": "InternalIP", "address": others}]}})
    stolen = ("kubernetes.default.svc", "localhost", "10.96.0.1", "127.0.0.1", others, "elsewhere.example")
    said = [*({"type": "Hostname", "address": name} for name in stolen), {"type": "InternalIP", "address": "192.0.2.70"}]
    api.call("POST", "/api/v1/nodes", {"metadata": {"name": "node-1"}})
    until(lambda: api.call("PATCH", "/api/v1/nodes/node-1/status", {"status": {"addresses": said}}, user="kubelet",
                           content="application/merge-patch+json").code == 200, what="its addresses")

    def serve(name: str) -> str:
        return ask(api, requests.KUBELET_SERVING, replace(NODE, names=("node-1", name)), user="kubelet")
    asked, own = [serve(name) for name in stolen], serve("192.0.2.70")
    until(lambda: status(api, own).get("certificate"), what="the certificate")
    assert [status(api, each) for each in asked] == [{}] * len(stolen)
    for name in ("node-1", "serves-2"):
        api.call("DELETE", f"/api/v1/nodes/{name}")


def test_no_request_at_all() -> None:
    for pem in (b"", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"):
        with pytest.raises(Invalid):
            requests.read(pem)


def test_the_spec_stays(api: ApiServer) -> None:
    name = ask(api, requests.CLIENT, Identity("jane"))
    for sub in ("", "/approval", "/status"):
        api.call("PATCH", f"{PATH}/{name}{sub}", {"spec": {"username": "root"}}, content="application/merge-patch+json")
    assert api.call("GET", f"{PATH}/{name}").body["spec"]["username"] == "admin"


@pytest.fixture
def alone() -> Iterator[ApiServer]:
    """A server with an etcd of its own: several on one would each write their authority into the cluster's information."""
    with EtcdServer.start() as etcd, contextlib.closing(ApiServer.start(etcd)) as server:
        yield server


@pytest.mark.slow
def test_join_from_the_outside(alone: ApiServer, tmp_path: Path) -> None:
    made = minik8s("token", "create", "--kubeconfig", str(alone.file("admin.kubeconfig")))
    assert made.returncode == 0, made.stderr
    _, _, server, _, token, _, pin = made.stdout.split()
    here = str(tmp_path)
    wrong = minik8s("join", server, "--token", token, "--discovery-token-ca-cert-hash", "sha256:" + "0" * 64, "--directory", here)
    assert wrong.returncode == 2
    assert "another CA" in wrong.stderr
    forged = minik8s("join", server, "--token", "aaaaaa." + "a" * 16, "--discovery-token-ca-cert-hash", pin, "--directory", here)
    assert (forged.returncode, "--token: " in forged.stderr, forged.stderr.count("\n")) == (2, True, 1), forged.stderr
    joined = minik8s("join", server, "--token", token, "--discovery-token-ca-cert-hash", pin, "--node-name", "far", "--node-ip",
                     "192.0.2.7", "--directory", here)
    assert joined.returncode == 0, joined.stderr
    kubectl = ["kubectl", "--kubeconfig", str(tmp_path / "kubelet.kubeconfig")]
    shown = subprocess.run([*kubectl, "auth", "whoami"], capture_output=True, text=True, check=True).stdout
    assert "system:node:far" in shown
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pki/kubelet.crt", tmp_path / "pki/kubelet.key")
    serving = x509.load_pem_x509_certificate((tmp_path / "pki/kubelet.crt").read_bytes())
    names = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    assert (tmp_path / "pki/kubelet.key").stat().st_mode & 0o077 == 0


def test_a_kubeconfig_for_somebody(api: ApiServer, tmp_path: Path) -> None:
    """It trusts whom its maker trusts, though another server of this cluster says in public that it has another CA."""
    info, foreign = "/api/v1/namespaces/kube-public/configmaps/cluster-info", Authority().pair.certificate
    said = json.loads(until(lambda: api.call("GET", info).body.get("data"), what="what is said in public")["kubeconfig"])
    said["clusters"][0]["cluster"]["certificate-authority-data"] = base64.b64encode(foreign).decode()
    changed = api.call("PATCH", info, {"data": {"kubeconfig": json.dumps(said)}}, content="application/merge-patch+json")
    assert changed.code == 200, changed.body
    made = minik8s("kubeconfig", "--user", "ann", "--group", "staff", "--kubeconfig", str(api.file("admin.kubeconfig")))
    assert made.returncode == 0, made.stderr
    (tmp_path / "config").write_text(made.stdout)
    kubectl = ["kubectl", "--kubeconfig", str(tmp_path / "config"), "auth", "whoami"]
    shown = subprocess.run(kubectl, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "ann" in shown.stdout
    assert "staff" in shown.stdout
    assert api.call("DELETE", info).code == 200, "so that it is made anew"


def test_an_authority_reads_itself_back() -> None:
    first = Authority()
    assert Authority(first.pair).pair == first.pair
