"""The real kubectl, the one on PATH and Debian's 1.20, doing a day's work."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.apiserver.apiprocess import ApiServer

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
Kubectl = Callable[..., str]
MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: cm1}
data: {a: "1", b: "2"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "web:1", ports: [{containerPort: 80}], env: [{name: A, value: "1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 80}]}
"""
POD = '{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p1"},"spec":{"containers":[{"name":"c","image":"x"}]}}'


@pytest.fixture(params=["here", "debian"])
def kubectl(api: ApiServer, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    binary = "kubectl" if request.param == "here" else request.getfixturevalue("old_kubectl")
    namespace = f"{request.param}-{time.time_ns() % 10**9}"

    def run(*argv: str, stdin: str = "", fails: bool = False) -> str:
        done = api.kubectl("--namespace", namespace, *argv, stdin=stdin, binary=binary, check=not fails)
        if fails:
            assert done.returncode != 0, done.stdout
            return done.stderr
        return done.stdout + done.stderr

    run.binary, run.namespace = binary, namespace  # type: ignore[attr-defined]
    run("create", "namespace", namespace)
    yield run
    run("delete", "namespace", namespace, "--wait=false")


def test_apply_changes_prunes_and_deletes(kubectl: Kubectl) -> None:
    assert "deployment.apps/web created" in kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert kubectl("apply", "-f", "-", stdin=MANIFEST).count("unchanged") == 3
    changed = MANIFEST.replace('b: "2"', 'c: "3"').replace("web:1", "web:2")
    changed = changed.replace('{name: A, value: "1"}', '{name: B, value: "2"}')
    applied = kubectl("apply", "-f", "-", stdin=changed)
    assert applied.count("configured") == 2
    assert json.loads(kubectl("get", "cm", "cm1", "-o", "json"))["data"] == {"a": "1", "c": "3"}
    container = json.loads(kubectl("get", "deploy", "web", "-o", "json"))["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], container["env"]) == ("web:2", [{"name": "B", "value": "2"}])
    assert kubectl("diff", "-f", "-", stdin=changed) == ""
    assert kubectl("delete", "-f", "-", stdin=changed).count("deleted") == 3
    assert kubectl("get", "cm,deploy,svc", "--ignore-not-found", "-l", "app=web") in ("", "No resources found\n")


def test_create_edits_and_scales(kubectl: Kubectl) -> None:
    kubectl("create", "deployment", "d", "--image=x")
    kubectl("create", "configmap", "c", "--from-literal=k=v")
    kubectl("create", "secret", "generic", "s", "--from-literal=k=v")
    kubectl("create", "serviceaccount", "sa")
    kubectl("create", "service", "clusterip", "svc", "--tcp=80")
    kubectl("expose", "deployment", "d", "--port=80", "--type=NodePort")
    kubectl("scale", "deployment", "d", "--replicas=3")
    kubectl("set", "image", "deployment/d", "x=y:2")
    kubectl("label", "deployment", "d", "tier=web")
    kubectl("annotate", "deployment", "d", "why=because")
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "x", "env": [{"name": "E", "value": "1"}]}]}}}}
    kubectl("patch", "deployment", "d", "-p", json.dumps(patch))
    kubectl("rollout", "restart", "deployment/d")
    found = json.loads(kubectl("get", "deployment", "d", "-o", "json"))
    assert found["spec"]["replicas"] == 3
    container = found["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], container["env"]) == ("y:2", [{"name": "E", "value": "1"}])
    assert found["metadata"]["labels"]["tier"] == "web"
    assert "kubectl.kubernetes.io/restartedAt" in found["spec"]["template"]["metadata"]["annotations"]
    for words in (("get", "all"), ("get", "deploy,svc,cm,secret,sa", "-o", "wide"), ("describe", "deployment", "d"),
                  ("describe", "svc", "d"), ("get", "events"), ("get", "deploy", "--sort-by=.metadata.name")):
        assert "d" in kubectl(*words)
    assert '"d" deleted' in kubectl("delete", "deployment", "d")


def test_pods_and_waiting(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=POD)
    kubectl("run", "r1", "--image=x", "--restart=Never")
    assert "p1" in kubectl("get", "pods", "-o", "wide")
    assert "p1" in kubectl("get", "pods", "--field-selector=metadata.name=p1,status.phase!=Running")
    assert "timed out" in kubectl("wait", "--for=condition=Ready", "pod/p1", "--timeout=1s", fails=True)
    assert "Pending" in kubectl("describe", "pod", "p1")
    assert '"p1" deleted' in kubectl("delete", "pod", "p1")
    assert "force deleted" in kubectl("delete", "pod", "r1", "--grace-period=0", "--force")
    assert "not found" in kubectl("get", "pod", "p1", fails=True)


def test_watch_shows_rows(api: ApiServer, kubectl: Kubectl) -> None:
    config = str(api.file("admin.kubeconfig"))
    argv = [kubectl.binary, "--kubeconfig", config, "-n", kubectl.namespace, "get", "cm", "-w",  # type: ignore[attr-defined]
            "--field-selector=metadata.name=seen"]
    watching = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    try:
        time.sleep(0.3)
        kubectl("create", "configmap", "seen", "--from-literal=k=v")
        lines = [watching.stdout.readline(), watching.stdout.readline()]
        assert lines[0].split() == ["NAME", "DATA", "AGE"]
        assert lines[1].split()[:2] == ["seen", "1"]
    finally:
        watching.kill()
        watching.wait()
        watching.stdout.close()


def test_mistakes_are_told(kubectl: Kubectl) -> None:
    assert "unknown" in kubectl("create", "-f", "-", stdin=POD.replace('"image"', '"imagine"'), fails=True)
    assert "Invalid value" in kubectl("create", "-f", "-", stdin=POD.replace("p1", "P_1"), fails=True)
    assert "already exists" in kubectl("create", "namespace", "default", fails=True)
    assert "the server doesn't have a resource type" in kubectl("get", "unicorns", fails=True)
    patch = '{"spec":{"clusterIP":"10.96.0.77"}}'
    assert "immutable" in kubectl("patch", "-n", "default", "service", "kubernetes", "-p", patch, fails=True)


def test_discovery_and_questions(kubectl: Kubectl) -> None:
    assert "deployments" in kubectl("api-resources")
    assert "apps/v1" in kubectl("api-versions")
    assert "Server Version" in kubectl("version")
    assert kubectl("auth", "can-i", "create", "pods").strip().endswith("yes")
    assert "readyz check passed" in kubectl("get", "--raw", "/readyz?verbose")
    assert "KIND" in kubectl("explain", "pod.spec")
    assert "Kubernetes" in kubectl("cluster-info")


def test_nodes(kubectl: Kubectl) -> None:
    node = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": kubectl.namespace}}  # type: ignore[attr-defined]
    name = node["metadata"]["name"]  # type: ignore[index]
    kubectl("create", "-f", "-", stdin=json.dumps(node))
    kubectl("cordon", name)
    kubectl("taint", "nodes", name, "k=v:NoSchedule")
    spec = json.loads(kubectl("get", "node", name, "-o", "json"))["spec"]
    assert spec["unschedulable"] is True
    assert {"key": "k", "value": "v", "effect": "NoSchedule"} in spec["taints"]
    assert "SchedulingDisabled" in kubectl("get", "nodes")
    assert "Taints" in kubectl("describe", "node", name)
    on_node = POD.replace('"spec":{', f'"spec":{{"nodeName":"{name}","terminationGracePeriodSeconds":0,')
    kubectl("create", "-f", "-", stdin=on_node)
    kubectl("drain", name, "--ignore-daemonsets", "--force", "--timeout=60s")
    kubectl("uncordon", name)
    kubectl("delete", "node", name)
