"""Go kube-controller-manager 1.20 over our API, none of our controllers beside it: by protobuf, with an account for each of its
controllers, and keys and an authority of its own. The tests play the kubelets. What it asks for in versions that Kubernetes
has dropped since is refused, and it goes on without.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from minik8s.apiserver.auth import jwt
from minik8s.pki import requests
from minik8s.pki.authority import Authority, Identity
from tests.apiserver.test_go_clients import node
from tests.original import original
from tests.plane import KUBECTL, Plane, until

MANAGER = original("kube-controller-manager")
pytestmark = [pytest.mark.etcd, pytest.mark.slow, pytest.mark.skipif(
    not MANAGER.exists(), reason="Go kube-controller-manager is not built: python -m tests.original kube-controller-manager")]
SERVING = {"phase": "Running", "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}], "conditions": [
    {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "foos.example.com"},
    "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"}, "versions": [
        {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    directory = tmp_path_factory.mktemp("plane")
    (directory / "account.key").write_bytes(jwt.make_key())
    authority = Authority().pair
    (directory / "signer.crt").write_bytes(authority.certificate)
    (directory / "signer.key").write_bytes(authority.key)
    with Plane.start(directory, "--service-account-signing-key-file", str(directory / "account.key")) as made:
        made.apply(node("node-1"), node("node-2"), DEFINITION)
        with (directory / "go.log").open("ab") as log:
            process = subprocess.Popen(argv(made), stdout=log, stderr=log)
        try:
            made.agent("scheduler")
            yield made
            assert process.poll() is None, "it lives through all of this"
        finally:
            process.terminate()
            process.wait(30)
            print((directory / "go.log").read_text()[-3000:])


def argv(plane: Plane) -> list[str]:
    here, kubeconfig = plane.directory, str(plane.directory / "controllers.kubeconfig")
    return [
        str(MANAGER), "--kubeconfig", kubeconfig, "--authentication-kubeconfig", kubeconfig,
        "--authorization-kubeconfig", kubeconfig,
        "--secure-port", "0", "--port", "0", "--kube-api-content-type", "application/vnd.kubernetes.protobuf",
        "--use-service-account-credentials", "--controllers", "*,bootstrapsigner,tokencleaner",
        "--root-ca-file", plane.pki.ca, "--service-account-private-key-file", str(here / "account.key"),
        "--cluster-signing-cert-file", str(here / "signer.crt"), "--cluster-signing-key-file", str(here / "signer.key"),
        "--allocate-node-cidrs", "--cluster-cidr", "10.244.0.0/16", "--node-monitor-period", "1s",
        "--node-monitor-grace-period", "1h", "--horizontal-pod-autoscaler-sync-period", "2s"]


def seen(plane: Plane, path: str, *what: str) -> str:
    """A field of an object, empty while there is none."""
    done = subprocess.run([KUBECTL, "--kubeconfig", str(plane.kubeconfig), "get", *what, "-o", f"jsonpath={path}"], text=True,
                          capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def told(plane: Plane, what: str, status: dict[str, Any]) -> None:
    """What a kubelet would say of a pod or node."""
    plane.kubectl("patch", what, "--subresource", "status", "--type", "merge", "-p", json.dumps({"status": status}), check=False)


def serving(plane: Plane, app: str) -> bool:
    """Say that the pods of a workload serve, and end those that are to go."""
    for pod in plane.get("pods", "-l", f"app={app}")["items"]:
        name = pod["metadata"]["name"]
        if pod["metadata"].get("deletionTimestamp"):
            plane.kubectl("delete", "pod", name, "--grace-period=0", "--force", check=False)
        elif pod["spec"].get("nodeName") and pod["status"]["phase"] != "Running":
            told(plane, f"pod/{name}", SERVING)
    return True


def workload(kind: str, name: str, *, group: str = "apps/v1", **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "x"}]
    selector = {"app": name} if group == "v1" else {"matchLabels": {"app": name}}
    return {"apiVersion": group, "kind": kind, "metadata": {"name": name}, "spec": {
        "selector": selector, "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}, **spec}}


def test_a_deployment_is_rolled_out_scaled_and_exposed(plane: Plane) -> None:
    plane.kubectl("create", "deployment", "web", "--image", "x", "--replicas", "2")
    plane.kubectl("expose", "deployment", "web", "--port", "80")

    def stands(image: str, count: str) -> bool:
        serving(plane, "web")
        counts = "{.status.updatedReplicas} {.status.availableReplicas} {.status.replicas}"
        found = seen(plane, "{.spec.template.spec.containers[0].image} " + counts, "deployment", "web")
        return found == " ".join([image, *[count] * 3])
    until(lambda: stands("x", "2"), "two pods that serve")
    until(lambda: seen(plane, "{.subsets[*].addresses[*].ip}", "endpoints", "web"), "its endpoints")
    plane.kubectl("set", "image", "deployment/web", "x=y")
    until(lambda: stands("y", "2"), "another image")
    plane.kubectl("rollout", "undo", "deployment/web")
    until(lambda: stands("x", "2"), "the first image")
    plane.kubectl("autoscale", "deployment", "web", "--min", "3", "--max", "6", "--cpu-percent", "50")
    until(lambda: stands("x", "3"), "as many as the autoscaler wants")
    assert seen(plane, "{.spec.holderIdentity}", "-n", "kube-system", "lease", "kube-controller-manager")


def test_sets_jobs_and_volumes(plane: Plane) -> None:
    claim = {"metadata": {"name": "d"}, "spec": {"storageClassName": "none", "accessModes": ["ReadWriteOnce"],
                                                "resources": {"requests": {"storage": "1Gi"}}}}
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {
        "storageClassName": "none", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}}
    plane.apply(volume, workload("StatefulSet", "db", serviceName="db", volumeClaimTemplates=[claim]),
                workload("DaemonSet", "each"), workload("ReplicationController", "old", group="v1", replicas=1))
    plane.kubectl("create", "job", "once", "--image", "x")
    plane.kubectl("create", "quota", "few", "--hard", "count/jobs.batch=5")
    until(lambda: serving(plane, "db") and seen(plane, "{.status.readyReplicas}", "sts", "db") == "1", "the stateful set")
    assert (seen(plane, "{.status.phase}", "pvc", "d-db-0"), seen(plane, "{.status.phase}", "pv", "pv")) == ("Bound", "Bound")
    until(lambda: serving(plane, "each") and seen(plane, "{.status.numberReady}", "ds", "each") == "2", "a pod on each node")
    until(lambda: serving(plane, "old") and seen(plane, "{.status.readyReplicas}", "rc", "old") == "1", "the old kind of set")
    pod = until(lambda: seen(plane, "{.items[0].metadata.name}", "pods", "-l", "job-name=once"), "the job's pod")
    told(plane, f"pod/{pod}", {"phase": "Succeeded"})
    until(lambda: "Complete" in seen(plane, "{.status.conditions[*].type}", "job", "once"), "the job's end")
    until(lambda: seen(plane, "{.status.used}", "quota", "few") == '{"count/jobs.batch":"1"}', "what is used of the quota")


@pytest.mark.parametrize("policy", ["background", "foreground", "orphan"])
def test_what_becomes_of_dependants(plane: Plane, policy: str) -> None:
    """The collector watches metadata only, of every kind that discovery names, custom ones too."""
    plane.kubectl("create", "deployment", policy, "--image", "x")
    uid = seen(plane, "{.metadata.uid}", "deployment", policy)
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": policy, "uid": uid, "blockOwnerDeletion": True}
    child = {"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": policy, "ownerReferences": [owner]}}
    plane.kubectl("create", "-f", "-", body=child)
    until(lambda: seen(plane, "{.items[*].metadata.name}", "pods", "-l", f"app={policy}"), "a pod")
    sets = seen(plane, "{.items[*].metadata.name}", "rs", "-l", f"app={policy}")
    plane.kubectl("delete", "deployment", policy, f"--cascade={policy}", "--wait=false")

    def dependants() -> list[str]:
        serving(plane, policy)
        return [seen(plane, "{.metadata.name}{.metadata.ownerReferences}", *each) for each in (
            ("deployment", policy), ("foo", policy), ("rs", sets))]
    left = ["", policy, sets] if policy == "orphan" else ["", "", ""]
    until(lambda: dependants() == left, policy, 90)


def test_a_namespace_goes_with_all_that_is_in_it(plane: Plane) -> None:
    plane.kubectl("create", "namespace", "going")
    plane.kubectl("-n", "going", "create", "deployment", "x", "--image", "x")
    foo = {"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "x"}}
    plane.kubectl("-n", "going", "create", "-f", "-", body=foo)
    until(lambda: seen(plane, "{.items[*].spec.nodeName}", "pods", "-n", "going"), "a pod that needs a kubelet to go")
    plane.kubectl("delete", "namespace", "going", "--wait=false")

    def gone() -> bool:
        plane.kubectl("-n", "going", "delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false", check=False)
        return not seen(plane, "{.metadata.name}", "namespace", "going")
    until(gone, "the namespace goes", 90)
    assert not seen(plane, "{.items[*].metadata.name}", "foos", "-n", "going")


def test_accounts_and_their_tokens(plane: Plane) -> None:
    """Those of its making are of another form than ours, and good as well."""
    plane.kubectl("create", "serviceaccount", "robot")
    secret = until(lambda: seen(plane, "{.secrets[0].name}", "serviceaccount", "robot"), "a Secret for the account")
    token = base64.b64decode(until(lambda: seen(plane, "{.data.token}", "secret", secret), "its token")).decode()
    claims = json.loads(jwt.decode(token.split(".")[1]))
    assert claims["iss"] == "kubernetes/serviceaccount"
    config = plane.directory / "robot.kubeconfig"
    config.write_text(json.dumps(plane.config(token)))
    shown = subprocess.run([KUBECTL, "--kubeconfig", str(config), "auth", "whoami"], text=True, capture_output=True, check=True)
    assert "system:serviceaccount:default:robot" in shown.stdout
    assert "BEGIN CERTIFICATE" in until(lambda: seen(plane, r"{.data.ca\.crt}", "configmap", "kube-root-ca.crt"), "the CA")


def test_it_signs_what_is_asked_of_it(plane: Plane) -> None:
    """Who joins is approved by rights that it asks about; everybody else by a person."""
    joining = ["--as", "system:bootstrap:abcdef", "--as-group", "system:bootstrappers", "--as-group", "system:authenticated"]
    for name, identity, signer, who in (
            ("jane", Identity("jane", ("staff",)), requests.CLIENT, []),
            ("node-9", Identity("system:node:node-9", ("system:nodes",)), requests.KUBELET_CLIENT, joining)):
        _, request = requests.make(identity)
        plane.kubectl(*who, "create", "-f", "-", body={
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"request": base64.b64encode(request).decode(), "signerName": signer,
                     "usages": ["digital signature", "key encipherment", "client auth"]}})
        if not who:
            plane.kubectl("certificate", "approve", name)
        pem = until(partial(seen, plane, "{.status.certificate}", "csr", name), f"{name}'s certificate")
        issued = x509.load_pem_x509_certificate(base64.b64decode(pem))
        issued.verify_directly_issued_by(x509.load_pem_x509_certificate(Path(plane.directory / "signer.crt").read_bytes()))


def test_a_node_that_is_not_ready_and_one_that_is_gone(plane: Plane) -> None:
    until(lambda: seen(plane, "{.spec.podCIDR}", "node", "node-2"), "its range")
    for name, seconds in (("evicted", {"tolerationSeconds": 1}), ("left", {})):
        bears = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", **seconds}
        plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "nodeName": "node-2", "containers": [{"name": "c", "image": "x"}], "tolerations": [bears]}})
    bad = {"type": "Ready", "status": "False", "lastHeartbeatTime": "2020-01-01T00:00:00Z"}
    told(plane, "node/node-2", {"conditions": [bad]})
    until(lambda: "not-ready" in seen(plane, "{.spec.taints[*].key}", "node", "node-2"), "the taint")
    until(lambda: seen(plane, "{.metadata.deletionTimestamp}", "pod", "evicted"), "the eviction")
    assert not seen(plane, "{.metadata.deletionTimestamp}", "pod", "left")
    plane.kubectl("delete", "node", "node-2")
    until(lambda: not seen(plane, "{.metadata.name}", "pod", "left"), "what was on it is gone", 150)


def test_what_it_has_to_do_without(plane: Plane) -> None:
    """Three of its controllers want APIs in beta, which are no more."""
    log = plane.directory / "go.log"
    for name in ("cronjob", "disruption", "endpointslice", "endpointslicemirroring"):
        until(partial(lambda line: line in log.read_text(), f'Skipping "{name}"'), name)
