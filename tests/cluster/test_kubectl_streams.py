"""The commands of kubectl's contract that speak to a kubelet, and those that need controllers: run to their ends on the lab."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs import Lab, until

pytestmark = pytest.mark.cluster
SPACE = "streams"
SCRIPT = "echo begun; nc -ll -p 8080 -e cat & httpd -p 8081 -h /etc & while read line; do echo heard $line; done; sleep 1000"
BUSYBOX = {"name": "main", "image": "lab.local/busybox:1", "imagePullPolicy": "IfNotPresent"}
TALKER = {"terminationGracePeriodSeconds": 0, "containers": [{**BUSYBOX, "stdin": True, "command": ["sh", "-c", SCRIPT]}]}
SLEEPER = {"terminationGracePeriodSeconds": 0, "containers": [{**BUSYBOX, "command": ["sleep", "1000"]}]}
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talker"}, "spec": TALKER}


class Talk:
    """kubectl in a namespace with a pod that talks."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __call__(self, *argv: str, stdin: str | None = None, check: bool = True) -> str:
        return self.lab.kubectl("-n", SPACE, *argv, stdin=stdin, check=check)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "KUBECONFIG": str(self.lab.state.kubeconfig)}
        return subprocess.Popen(["kubectl", "-n", SPACE, *argv], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                text=True, bufsize=1)


@pytest.fixture(scope="module")
def talk(lab: Lab) -> Iterator[Talk]:
    made = Talk(lab)
    lab.kubectl("create", "namespace", SPACE)
    made("apply", "-f", "-", stdin=json.dumps(POD))
    made("wait", "--for=condition=Ready", "pod/talker", "--timeout=240s")
    yield made
    lab.kubectl("delete", "namespace", SPACE, "--timeout=240s")


def test_logs_and_exec(talk: Talk) -> None:
    until(lambda: talk("logs", "talker").startswith("begun\n"), what="what it says first")
    assert talk("exec", "talker", "--", "sh", "-c", "echo $((6 * 7))") == "42\n"
    assert talk("exec", "-i", "talker", "--", "cat", stdin="said") == "said"


def test_a_new_kubectl_need_not_fall_back(talk: Talk) -> None:
    """Input that ends, a code, and both outputs by WebSocket v5; an older kubectl has nothing to fall back from."""
    argv = ["exec", "-v=6", "-i", "talker", "--", "sh", "-c", "wc -c; echo err >&2; exit 3"]
    environment = {**os.environ, "KUBECONFIG": str(talk.lab.state.kubeconfig)}
    done = subprocess.run(["kubectl", "-n", SPACE, *argv], env=environment, input="x" * 500_000, capture_output=True, text=True,
                          timeout=120, check=False)
    assert (done.stdout.strip(), done.returncode) == ("500000", 3)
    assert "err\n" in done.stderr
    assert "fallback" not in done.stderr.lower()
    if "subprotocol" in done.stderr:
        assert "v5.channel.k8s.io" in done.stderr


def test_attach(talk: Talk) -> None:
    attached = talk.start("attach", "-i", "talker", "-q")
    assert attached.stdin is not None
    assert attached.stdout is not None
    try:
        attached.stdin.write("hello\n")
        attached.stdin.flush()
        assert "heard hello" in attached.stdout.readline()
    finally:
        attached.kill()
        attached.wait()
        attached.stdin.close()
        attached.stdout.close()
    until(lambda: "heard hello" in talk("logs", "talker", "--tail=5"), what="what was typed is in the log")


def test_port_forward(talk: Talk) -> None:
    forwarding = talk.start("port-forward", "pod/talker", ":8080")
    assert forwarding.stdout is not None
    try:
        found = re.search(r"127\.0\.0\.1:(\d+) -> 8080", forwarding.stdout.readline())
        assert found
        for word in (b"one", b"two"):
            with socket.create_connection(("127.0.0.1", int(found[1])), 60) as connection:
                connection.sendall(word)
                assert connection.recv(10) == word
    finally:
        forwarding.kill()
        forwarding.wait()
        forwarding.stdout.close()


def test_the_proxies_of_the_api(lab: Lab, talk: Talk) -> None:
    """To a kubelet, to a pod's port and to a Service's, by way of the API server."""
    where = f"/api/v1/namespaces/{SPACE}"
    until(lambda: "talker" in talk("get", "--raw", f"{where}/pods/talker:8081/proxy/hostname", check=False), what="its server")
    talk("label", "pod", "talker", "app=talker")
    talk("expose", "pod", "talker", "--port=80", "--target-port=8081", "--selector=app=talker")
    until(lambda: "talker" in talk("get", "--raw", f"{where}/services/talker/proxy/hostname", check=False), what="the endpoint")
    assert "talker" in talk("get", "--raw", f"{where}/services/talker:80/proxy/hosts")
    node = talk("get", "pod", "talker", "-o", "jsonpath={.spec.nodeName}")
    assert '"talker"' in talk("get", "--raw", f"/api/v1/nodes/{node}/proxy/pods")
    assert "kubelet_running_pods" in talk("get", "--raw", f"/api/v1/nodes/{node}/proxy/metrics")


def test_cp_there_and_back(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("content\n" * 1000)
    talk("cp", str(tmp_path / "there"), "talker:/tmp/there")
    talk("cp", "talker:/tmp/there", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "content\n" * 1000


def test_wait_and_delete(talk: Talk) -> None:
    talk("run", "short", "--image=lab.local/busybox:1", "--image-pull-policy=IfNotPresent", "--restart=Never", "--", "true")
    talk("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/short", "--timeout=240s")
    assert "deleted" in talk("delete", "pod", "short", "--timeout=240s")
    assert "NotFound" not in talk("get", "pods")


def test_drain_moves_what_a_budget_lets_go(lab: Lab, talk: Talk) -> None:
    template = {"metadata": {"labels": {"app": "moved"}}, "spec": SLEEPER}
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "moved"}, "spec": {
        "replicas": 3, "selector": {"matchLabels": {"app": "moved"}}, "template": template}}
    talk("apply", "-f", "-", stdin=json.dumps(body))
    talk("rollout", "status", "deployment/moved", "--timeout=240s")
    talk("create", "pdb", "moved", "--selector=app=moved", "--min-available=3")
    victim = lab.get("pods", "-n", SPACE, "-l", "app=moved")["items"][0]["spec"]["nodeName"]
    drain = ("drain", victim, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--pod-selector=app=moved")
    try:
        until(lambda: lab.get("pdb", "moved", "-n", SPACE)["status"].get("expectedPods") == 3, what="the budget counts its pods")
        assert "evicted" not in lab.kubectl(*drain, "--timeout=2s", check=False)
        talk("patch", "pdb", "moved", "--type=merge", "-p", '{"spec":{"minAvailable":2}}')
        lab.kubectl(*drain, "--timeout=240s")
        talk("rollout", "status", "deployment/moved", "--timeout=240s")
        nodes = {item["spec"]["nodeName"] for item in lab.get("pods", "-n", SPACE, "-l", "app=moved")["items"]
                 if not item["metadata"].get("deletionTimestamp")}
        assert victim not in nodes
    finally:
        lab.kubectl("uncordon", victim)


def test_a_custom_kind_is_collected_and_emptied(lab: Lab, talk: Talk) -> None:
    """A new kind's objects own others, and go with their namespace."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    spec = {"group": "example.com", "scope": "Namespaced", "names": {"plural": "owners", "kind": "Owner"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}]}
    body = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "owners.example.com"}, "spec": spec}
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    lab.kubectl("wait", "--for=condition=Established", "crd/owners.example.com", "--timeout=240s")
    owner = {"apiVersion": "example.com/v1", "kind": "Owner", "metadata": {"name": "o"}}
    talk("apply", "-f", "-", stdin=json.dumps(owner))
    uid = talk("get", "owner.example.com", "o", "-o", "jsonpath={.metadata.uid}")
    reference = {"apiVersion": "example.com/v1", "kind": "Owner", "name": "o", "uid": uid}
    owned = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": [reference]}}
    talk("apply", "-f", "-", stdin=json.dumps(owned))
    lab.kubectl("create", "namespace", "emptied")
    lab.kubectl("apply", "-n", "emptied", "-f", "-", stdin=json.dumps(owner))
    lab.kubectl("delete", "namespace", "emptied", "--timeout=240s")
    talk("delete", "owner.example.com", "o")
    until(lambda: "owned" not in talk("get", "configmaps"), what="what the custom object owned is gone")
    lab.kubectl("delete", "crd", "owners.example.com", "--timeout=240s")
    until(lambda: "owners" not in lab.kubectl("api-resources", "--api-group=example.com"), what="nobody serves the kind")
