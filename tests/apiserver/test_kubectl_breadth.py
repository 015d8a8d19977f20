"""The commands of kubectl that no recording has: each once, in one namespace, one after another, by what it prints and leaves."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.apiserver.apiprocess import ApiServer
from tests.labs import until

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
Run = Callable[..., str]
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept", "labels": {"set": "one"}}, "data": {"k": "v"}}
ROLE = "--verb=get --resource=pods"

CREATED = {
    "clusterrole {ns}-c " + ROLE: "clusterrole.rbac.authorization.k8s.io/{ns}-c created",
    "clusterrolebinding {ns}-c --clusterrole={ns}-c --user=u": "clusterrolebinding.rbac.authorization.k8s.io/{ns}-c created",
    "priorityclass {ns}-p --value=7": "priorityclass.scheduling.k8s.io/{ns}-p created",
    "serviceaccount robot": "serviceaccount/robot created", "namespace {ns}-n": "namespace/{ns}-n created",
    "service nodeport np --tcp=80:8080": "service/np created", "service loadbalancer lb --tcp=80": "service/lb created",
    "service externalname en --external-name=a.example.com": "service/en created",
    "service clusterip hl --clusterip=None --tcp=80": "service/hl created",
    "secret docker-registry dr --docker-username=u --docker-password=p": "secret/dr created",
    "deployment d --image=x --replicas=2 --port=80": "deployment.apps/d created",
    "configmap one --from-literal=a=1": "configmap/one created", "configmap two --from-literal=a=1": "configmap/two created",
    "job j --image=x -- true": "job.batch/j created", "cronjob cj --image=x --schedule=@hourly": "cronjob.batch/cj created",
    "job jj --from=cronjob/cj": "job.batch/jj created",
    "token robot --duration=1h --audience=vault": r"^[\w-]+\.[\w-]+\.[\w-]+\n?$",
}
STEPS = [
    ("get deploy d -o jsonpath={{.spec.replicas}}", "^2$"), ("get cm one -o go-template={{{{.data.a}}}}", "^1$"),
    ("get cm -o custom-columns=N:.metadata.name,A:.data.a --no-headers", r"one +1\n"), ("get cm -o name", "configmap/one\n"),
    ("get cm --sort-by=.metadata.name --show-labels", r"NAME +DATA +AGE +LABELS\n"), ("get cm -L set", "NAME +DATA +AGE +SET"),
    ("get deploy d --subresource=status", r"d +0/2"), ("get pods,svc,deploy", r"(?s)service/np.*deployment.apps/d"),
    ("get deploy/d svc/np -o name", "deployment.apps/d\nservice/np\n"),
    ("label cm one set=two", "labeled"), ("label cm one set=three --overwrite", "labeled"), ("label cm --all all=yes", "labeled"),
    ("get cm -l set=three,all -o name", "^configmap/one\n$"), ("get cm -l set!=three,all=yes -o name", "configmap/two"),
    ("label cm one set-", "unlabeled"), ("annotate deploy d why=1", "annotated"), ("annotate deploy d why-", "annotated"),
    ("set env deployment/d A=1 B=2", "env updated"), ("set env deployment/d --list", "A=1"),
    ("set env deployment/d A-", "env updated"),
    ("set serviceaccount deployment d robot", "serviceaccount updated"),
    ("set selector service np a=b", "selector updated"),
    ("set resources deploy d --requests=cpu=1m", "resource requirements updated"),
    ("set subject clusterrolebinding {ns}-c --serviceaccount={ns}:robot", "subjects updated"),
    ("auth can-i get pods --as=system:serviceaccount:{ns}:robot", "^yes"),
    ("auth can-i delete pods --as=system:serviceaccount:{ns}:robot", "^no"),
    ("get secrets --as=nobody-knows", "Forbidden"), ("get secrets --as=x --as-group=system:masters", "NAME"),
    ("scale deploy d --current-replicas=2 --replicas=3", "scaled"),
    ("scale deploy d --current-replicas=2 --replicas=1", "Expected replicas"),
    ("patch deploy d --subresource=scale --type=merge -p {{\"spec\":{{\"replicas\":4}}}}", "patched"),
    ("patch deploy d --subresource=status --type=merge -p {{\"status\":{{\"replicas\":4}}}}", "patched"),
    ("get deploy d -o jsonpath={{.spec.replicas}}{{.status.replicas}}", "^44$"),
    ("patch deploy d --type=json -p [{{\"op\":\"test\",\"path\":\"/spec/replicas\",\"value\":9}}]", "the server rejected|test"),
    ("rollout pause deploy/d", "paused"), ("rollout resume deploy/d", "resumed"), ("rollout undo deploy/d", "no rollout history"),
    ("autoscale deploy d --min=1 --max=4", "autoscaled"), ("expose deploy d --port=80 --name=ex --type=NodePort", "exposed"),
    ("run r --image=x --labels=run=yes --env=A=1 --port=80 --expose", r"service/r created\npod/r created"),
    ("run dry --image=x --dry-run=server -o yaml", "uid: "), ("delete pod r --dry-run=server", "deleted .*server dry run"),
    ("wait --for=create pod/r --timeout=60s", "condition met"), ("get pod r -o yaml --show-managed-fields", "kubectl-run"),
    ("delete cm -l all=yes", r'configmap "one" deleted'), ("wait --for=delete cm/one --timeout=60s", "^$"),
    ("delete jobs --all", r'job.batch "j" deleted'), ("delete pod,svc r --now", 'pod "r" deleted'),
    ("explain ingress.spec.rules --output=plaintext", "http"), ("explain crd.spec --recursive", "versions"),
    ("explain nobody", "doesn't have a resource type"), ("explain pod.nobody", 'field "nobody" does not exist'),
    ("describe ns {ns}", "Status: +Active"), ("describe sa robot", "Name: +robot"), ("describe ing", "No resources found"),
    ("describe clusterrole {ns}-c", r"pods +\[\] +\[\] +\[get\]"), ("describe hpa d", "Min replicas"),
    ("describe secret dr", "dockerconfigjson"),
    ("describe cronjob cj", "Schedule: +@hourly"), ("describe quota", "No resources found"),
    ("get --raw /api/v1/namespaces/{ns}/configmaps", '"kind":"ConfigMapList"'), ("get --raw /nowhere", "NotFound"),
    ("cluster-info dump --namespaces={ns}", '"kind": "NodeList"'),
    ("api-resources --verbs=list,patch --namespaced=false -o name", "nodes"),
    ("events --for=deploy/d", "No events|LAST SEEN"), ("top pods", "Metrics API not available"),
    ("taint nodes {ns}-1 k=v:NoSchedule", "tainted"), ("taint nodes {ns}-1 k:NoSchedule-", "untainted"),
    ("delete clusterrole,clusterrolebinding {ns}-c", "deleted"), ("delete priorityclass {ns}-p", "deleted"),
    ("delete ns {ns}-n --wait=false", "deleted"), ("delete node {ns}-1", "deleted"),
    ("delete nobody x", "doesn't have a resource type"),
]
FAILING = {  # with exit code 1; all others end with 0
    "auth can-i delete pods --as=system:serviceaccount:{ns}:robot", "get secrets --as=nobody-knows", "rollout undo deploy/d",
    "scale deploy d --current-replicas=2 --replicas=1", "explain nobody", "explain pod.nobody", "get --raw /nowhere", "top pods",
    "patch deploy d --type=json -p [{{\"op\":\"test\",\"path\":\"/spec/replicas\",\"value\":9}}]", "delete nobody x",
}


@pytest.fixture(scope="module")
def run(api: ApiServer) -> Iterator[Run]:
    space = "breadth"

    def run(command: str, stdin: Any = None, editor: str = "false") -> str:
        words = [word.format(ns=space) for word in command.split()]
        text = stdin if isinstance(stdin, str) else json.dumps(stdin) if stdin else ""
        done = api.kubectl("-n", space, *words, stdin=text, check=False, editor=editor)
        run.code = done.returncode  # type: ignore[attr-defined]
        return done.stdout + done.stderr

    for path, name in (("namespaces", space), ("nodes", f"{space}-1")):
        assert api.call("POST", f"/api/v1/{path}", {"metadata": {"name": name}}).code in (201, 409)
    until(lambda: api.call("GET", f"/api/v1/namespaces/{space}/serviceaccounts/default").code == 200, what="the account")
    yield run
    api.call("DELETE", f"/api/v1/namespaces/{space}")


def test_each_once(run: Run) -> None:
    wrong = {}
    for command, prints in [*((f"create {what}", prints) for what, prints in CREATED.items()), *STEPS]:
        shown, code = run(command), run.code  # type: ignore[attr-defined]
        expected = prints.format(ns="breadth") if "{ns}" in prints else prints
        if code != (command in FAILING) or not re.search(expected, shown):
            wrong[command] = f"{code}: {shown}"
    assert not wrong, "\n".join(f"{command}\n    {shown}" for command, shown in wrong.items())


def test_what_apply_remembers(run: Run, tmp_path: Path) -> None:
    other = {**CONFIG, "metadata": {"name": "gone", "labels": {"set": "one"}}}
    both = {"apiVersion": "v1", "kind": "List", "items": [CONFIG, other]}
    assert run("apply -f -", both).count("created") == 2
    assert "k: v" in run("apply view-last-applied cm kept")
    assert "configured" in run("apply set-last-applied -f -", {**CONFIG, "data": {"k": "w"}})
    assert "edited" in run("apply edit-last-applied cm kept", editor="sed -i s/w/x/")
    assert "configmap/gone pruned" in run("apply -f - --prune -l set=one --prune-allowlist=core/v1/ConfigMap", CONFIG)
    assert "replaced" in run("replace --force -f -", CONFIG)
    assert "serverside-applied" in run("apply --server-side --field-manager=other --force-conflicts -f -", CONFIG)
    assert "other" in run("get cm kept -o yaml --show-managed-fields")
    (tmp_path / "cm.json").write_text(json.dumps(CONFIG))
    (tmp_path / "kustomization.yaml").write_text("resources: [cm.json]\nnamePrefix: pre-\n")
    assert "configmap/pre-kept created" in run(f"apply -k {tmp_path}")
    assert "unchanged" in run(f"apply -k {tmp_path}")
    assert run(f"diff -k {tmp_path}") == ""
    assert 'configmap "pre-kept" deleted' in run(f"delete -k {tmp_path}")
    assert '"kind":"ConfigMap"' in run("create --raw /api/v1/namespaces/{ns}/configmaps -f -",
                                       json.dumps({**CONFIG, "metadata": {"name": "rawly"}}))
    assert '"status":"Success"' in run("delete --raw /api/v1/namespaces/{ns}/configmaps/rawly")
    twice = '{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"twice"},"data":{},"data":{},"nobody":1}'
    assert 'unknown field "nobody"' in run("create -f - --validate=warn", twice)
    assert "unknown field" in run("create -f - --validate=strict", twice.replace("twice", "thrice"))
    assert "created" in run("create -f - --validate=false", twice.replace("twice", "thrice"))


def signing_request(name: str) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    text = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    spec = {"request": base64.b64encode(text).decode(), "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"]}
    return {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name}, "spec": spec}


def test_certificates(run: Run) -> None:
    for name, word, said, condition in (("yes", "approve", "approved", "Approved,Issued"), ("no", "deny", "denied", "Denied")):
        assert "created" in run("create -f -", signing_request(f"breadth-{name}"))
        assert "Pending" in run(f"get csr breadth-{name}")
        assert said in run(f"certificate {word} breadth-{name}")
        until(lambda name=name, condition=condition: condition in run(f"get csr breadth-{name}"), what=condition)
        assert "deleted" in run(f"delete csr breadth-{name}")


def test_the_proxy_of_kubectl(api: ApiServer, run: Run) -> None:
    config = str(api.file("admin.kubeconfig"))
    proxying = subprocess.Popen(["kubectl", "--kubeconfig", config, "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
    assert proxying.stdout is not None
    try:
        port = re.search(r":(\d+)$", proxying.stdout.readline().strip())
        assert port
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/api/v1/namespaces/breadth", timeout=60) as reply:
            assert json.loads(reply.read())["metadata"]["name"] == "breadth"
    finally:
        proxying.kill()
        proxying.wait()
        proxying.stdout.close()
