"""The real kubectl and server-side apply: conflicts, force, diff, and the way over from the client's own apply."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.apiserver.apiprocess import ApiServer

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
Run = Callable[..., str]
SERVER = ("apply", "--server-side", "-f", "-")
WEB = """
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
"""


@pytest.fixture
def kubectl(api: ApiServer) -> Iterator[Run]:
    namespace = f"ssa-{time.time_ns() % 10**9}"
    api.kubectl("create", "namespace", namespace)

    def run(*argv: str, stdin: str = "", code: int = 0) -> str:
        done = api.kubectl("--namespace", namespace, *argv, stdin=stdin, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    yield run
    api.kubectl("delete", "namespace", namespace, "--wait=false")


def managers(kubectl: Run) -> set[tuple[str, str, str]]:
    obj = json.loads(kubectl("get", "deployment", "web", "-o", "json", "--show-managed-fields"))
    return {(each["manager"], each["operation"], each.get("subresource", "")) for each in obj["metadata"]["managedFields"]}


def spec(kubectl: Run) -> dict[str, object]:
    found: dict[str, object] = json.loads(kubectl("get", "deployment", "web", "-o", "json"))["spec"]
    return found


def test_conflicts_are_shown_and_forced(kubectl: Run) -> None:
    assert kubectl(*SERVER, stdin=WEB) == "deployment.apps/web serverside-applied\n"
    assert managers(kubectl) == {("kubectl", "Apply", "")}
    kubectl("scale", "deployment", "web", "--replicas=5")
    told = kubectl(*SERVER, stdin=WEB, code=1)
    assert 'error: Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using apps/v1: .spec.replicas' \
        in told
    assert "--force-conflicts" in told, "kubectl explains only what it knows for a conflict of fields"
    mine = WEB.replace("web:1", "web:2")
    two = kubectl(*SERVER, "--field-manager=other", stdin=mine.replace("replicas: 2", "replicas: 3"), code=1)
    assert "Apply failed with 2 conflicts: " in two
    assert '- .spec.template.spec.containers[name="web"].image' in two
    assert spec(kubectl)["replicas"] == 5
    assert "serverside-applied" in kubectl(*SERVER, "--force-conflicts", "--field-manager=other", stdin=mine)
    assert spec(kubectl)["replicas"] == 2
    assert "serverside-applied" in kubectl(*SERVER, "--field-manager=other", "--dry-run=server", stdin=mine)


def test_diff_on_the_server(kubectl: Run) -> None:
    kubectl(*SERVER, stdin=WEB)
    assert kubectl("diff", "--server-side", "-f", "-", stdin=WEB) == ""
    shown = kubectl("diff", "--server-side", "-f", "-", stdin=WEB.replace("web:1", "web:9"), code=1)
    images = [line for line in shown.splitlines() if "image: web:" in line]
    assert [(line[0], line.rpartition(":")[2]) for line in images] == [("-", "1"), ("+", "9")], shown
    new = kubectl("diff", "--server-side", "-f", "-", stdin=WEB.replace("name: web,", "name: fresh,"), code=1)
    assert "fresh" in new


def test_from_the_clients_apply_to_the_servers(kubectl: Run) -> None:
    kubectl("apply", "-f", "-", stdin=WEB)
    assert managers(kubectl) == {("kubectl-client-side-apply", "Update", "")}
    moved = WEB.replace("web:1", "web:2").replace(', env: [{name: A, value: "1"}]', "")
    assert kubectl(*SERVER, stdin=moved) == "deployment.apps/web serverside-applied\n"
    assert managers(kubectl) == {("kubectl", "Apply", ""), ("kubectl-last-applied", "Apply", "")}, "the client's is no more"
    [container] = spec(kubectl)["template"]["spec"]["containers"]  # type: ignore[index]
    assert (container["image"], container.get("env")) == ("web:2", None)
    back = kubectl("apply", "-f", "-", stdin=moved.replace("web:2", "web:3"))
    assert back.splitlines()[-1] == "deployment.apps/web configured"
    [container] = spec(kubectl)["template"]["spec"]["containers"]  # type: ignore[index]
    assert container["image"] == "web:3"


def test_what_others_set_stays(kubectl: Run) -> None:
    kubectl(*SERVER, stdin=WEB)
    kubectl("label", "deployment", "web", "by=hand")
    kubectl("annotate", "deployment", "web", "why=because")
    kubectl("set", "env", "deployment/web", "B=2")
    kubectl("set", "resources", "deployment/web", "--requests=cpu=10m")
    assert managers(kubectl) == {("kubectl", "Apply", ""), ("kubectl-label", "Update", ""), ("kubectl-annotate", "Update", ""),
                                 ("kubectl-set", "Update", "")}
    without = WEB.replace("replicas: 2", "paused: false")
    kubectl(*SERVER, stdin=without.replace('[{name: A, value: "1"}]', '[{name: C, value: "3"}]'))
    obj = json.loads(kubectl("get", "deployment", "web", "-o", "json"))
    assert obj["metadata"]["labels"] == {"app": "web", "by": "hand"}
    assert obj["metadata"]["annotations"]["why"] == "because"
    [container] = obj["spec"]["template"]["spec"]["containers"]
    assert {each["name"] for each in container["env"]} == {"B", "C"}
    assert container["resources"] == {"requests": {"cpu": "10m"}}
    assert obj["spec"]["replicas"] == 1


def test_edit_keeps_owners(api: ApiServer, kubectl: Run) -> None:
    kubectl(*SERVER, stdin=WEB)
    editor = api.file("editor")
    editor.write_text("#!/bin/sh\nsed -i s/web:1/web:7/ \"$1\"\n")
    editor.chmod(0o755)
    name = kubectl("get", "deployment", "web", "-o", "jsonpath={.metadata.namespace}")
    config = str(api.file("admin.kubeconfig"))
    argv = ["kubectl", "--kubeconfig", config, "-n", name, "edit", "deployment", "web"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False,
                          env={"PATH": os.environ["PATH"], "EDITOR": str(editor), "HOME": str(api.directory)})
    assert done.returncode == 0, done.stderr
    assert ("kubectl-edit", "Update", "") in managers(kubectl)
    told = kubectl(*SERVER, stdin=WEB, code=1)
    assert 'conflict with "kubectl-edit" using apps/v1: .spec.template.spec.containers[name="web"].image' in told


def test_strict_and_warned(kubectl: Run) -> None:
    odd = WEB.replace("replicas: 2", "replicas: 2\n  replicaz: 3")
    assert ".spec.replicaz: field not declared in schema" in kubectl(*SERVER, stdin=odd, code=1)
    told = kubectl(*SERVER, stdin=WEB.replace("containerPort: 80", "containerPort: x"), code=1)
    assert "failed to create typed patch object" in told
    assert ".spec.template.spec.containers[0].ports[0].containerPort: expected int32, got string" in told
    assert 'unknown field "spec.replicaz"' in kubectl("create", "-f", "-", stdin=odd, code=1)
    warned = kubectl("create", "--validate=warn", "-f", "-", stdin=odd)
    assert 'Warning: unknown field "spec.replicaz"' in warned
    assert "replicaz" not in spec(kubectl)
    patch = '{"spec":{"replicaz":1}}'
    for form in ("merge", "strategic"):
        assert 'unknown field "spec.replicaz"' in kubectl("patch", "deployment", "web", "--type", form, "-p", patch)
