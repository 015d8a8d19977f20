"""Every command of the contract, run by the real kubectl: its exit code, what it prints, and the object it leaves behind.

Each command has a namespace and a node of its own with the objects it names. Commands that speak to a kubelet get as far as a
pod without a node lets them; tests/kubelet and tests/cluster run them to the end.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.apiserver.apiprocess import ApiServer

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
Object = dict[str, Any]
TEMPLATE = {"metadata": {"labels": {"app": "d1"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
OBJECTS: dict[str, Object] = {
    "pods": {"metadata": {"name": "p1"}, "spec": TEMPLATE["spec"]},
    "services": {"metadata": {"name": "s1"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "d1"}}},
    "serviceaccounts": {"metadata": {"name": "default"}},
    "configmaps": {"metadata": {"name": "other"}, "data": {"k": "v"}},
}
DEPLOYMENT = {"metadata": {"name": "d1"}, "spec": {"selector": {"matchLabels": {"app": "d1"}}, "template": TEMPLATE}}
CONFIG = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "cm1"}, "data": {"k": "v"}}
NO_HOST = "does not have a host assigned"


class Shop:
    """A namespace with what the commands name, and kubectl in it."""

    count = 0

    def __init__(self, api: ApiServer) -> None:
        Shop.count += 1
        self.api, self.namespace, self.node = api, f"contract-{Shop.count}", f"n1-{Shop.count}"
        self.made("/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        for plural, body in OBJECTS.items():
            self.made(f"/api/v1/namespaces/{self.namespace}/{plural}", body)
        self.made(f"/apis/apps/v1/namespaces/{self.namespace}/deployments", DEPLOYMENT)
        self.made("/api/v1/nodes", {"metadata": {"name": self.node}})

    def made(self, path: str, body: Object) -> None:
        answer = self.api.call("POST", path, body)
        assert answer.code in (201, 409), answer.body

    def run(self, command: str, stdin: str = "", *, check: bool = False) -> subprocess.CompletedProcess[str]:
        words = [word.replace("n1", self.node) for word in command.split()]
        return self.api.kubectl("-n", self.namespace, *words, stdin=stdin, check=check, editor="sed -i s/k:/edited:/")

    def get(self, what: str) -> Object:
        """An object as it is now; empty when it is not there."""
        found = self.run(f"get {what} -o json --ignore-not-found").stdout
        return json.loads(found) if found else {}


class Case(NamedTuple):
    """A command, what it prints (a pattern), how it ends, and what is then true of an object."""

    command: str
    prints: str
    after: Callable[[Shop], Any] = lambda _: True
    code: int = 0
    stdin: Object | None = None
    first: str = ""


def labels(shop: Shop, what: str) -> Object:
    found: Object = shop.get(what)["metadata"].get("labels", {})
    return found


CASES = [
    Case("version", r"Server Version: v1\.33"),
    Case("get --raw /healthz", "^ok$"),
    Case("get --raw /readyz?verbose", r"(?s)\[\+\]etcd ok.*readyz check passed"),
    Case("api-resources", r"NAME +SHORTNAMES +APIVERSION +NAMESPACED +KIND\n(?s:.*)deployments +deploy +apps/v1 +true +Deploy"),
    Case("api-resources -o wide", r"statefulsets +sts +apps/v1 +true +StatefulSet +create,delete,deletecollection,get,list,patch,"
                                  r"update,watch +all"),
    Case("api-resources --api-group=apiextensions.k8s.io", r"customresourcedefinitions +crd,crds"),
    Case("api-versions", r"(?s)apps/v1\nauthentication.k8s.io/v1.*autoscaling/v1\nautoscaling/v2\nbatch/v1.*\nv1\n"),
    Case("get pods", r"NAME +READY +STATUS +RESTARTS +AGE\np1 +0/1 +Pending +0 +\d+s"),
    Case("get pods -A -o wide", r"NAMESPACE +NAME +READY +STATUS +RESTARTS +AGE +IP +NODE +NOMINATED NODE +READINESS GATES\n"),
    Case("get pods p1 -o yaml", r"apiVersion: v1\nkind: Pod\n"),
    Case("get pods -l a=b --field-selector=status.phase=Running", "No resources found"),
    Case("get all", r"(?s)pod/p1 .*service/s1 .*deployment.apps/d1 "),
    Case("get deploy d1 -o wide", r"NAME +READY +UP-TO-DATE +AVAILABLE +AGE +CONTAINERS +IMAGES +SELECTOR\nd1 +0/1 +0 +0 +"),
    Case("get svc s1", r"NAME +TYPE +CLUSTER-IP +EXTERNAL-IP +PORT\(S\) +AGE\ns1 +ClusterIP +10\.96\.\d+\.\d+ +<none> +80/TCP"),
    Case("describe pod p1", r"(?s)Name: +p1.*Status: +Pending.*Containers:\n  c:"),
    Case("describe svc s1", r"(?s)Name: +s1.*Selector: +app=d1.*Port: +<unset> +80/TCP"),
    Case("describe node n1", r"(?s)Name: +n1-\d+.*Unschedulable: +false"),
    Case("describe deployment d1", r"(?s)Replicas: +1 desired.*StrategyType: +RollingUpdate"),
    Case("create -f -", "configmap/cm1 created", lambda shop: shop.get("cm cm1")["data"] == {"k": "v"}, stdin=CONFIG),
    Case("apply -f -", "configmap/cm1 created", lambda shop: "last-applied" in json.dumps(shop.get("cm cm1")), stdin=CONFIG),
    Case("apply --server-side -f -", "configmap/cm1 serverside-applied",
         lambda shop: shop.get("cm cm1 --show-managed-fields")["metadata"]["managedFields"][0]["operation"] == "Apply",
         stdin=CONFIG),
    Case("apply --server-side -f -", "conflict with \"kubectl-create\"", lambda shop: shop.get("cm cm1")["data"] == {"k": "v"},
         1, {**CONFIG, "data": {"k": "other"}}, "create configmap cm1 --from-literal=k=v"),
    Case("apply --server-side --force-conflicts -f -", "serverside-applied",
         lambda shop: shop.get("cm cm1")["data"] == {"k": "other"}, 0, {**CONFIG, "data": {"k": "other"}},
         "create configmap cm1 --from-literal=k=v"),
    Case("apply --dry-run=server -f -", r"configmap/cm1 created \(server dry run\)", lambda shop: not shop.get("cm cm1"),
         stdin=CONFIG),
    Case("diff -f -", r"(?s)-  k: v\n\+  k: other", lambda shop: shop.get("cm cm1")["data"] == {"k": "v"},
         1, {**CONFIG, "data": {"k": "other"}}, "create configmap cm1 --from-literal=k=v"),
    Case("replace -f -", "configmap/cm1 replaced", lambda shop: shop.get("cm cm1")["data"] == {"k": "other"},
         0, {**CONFIG, "data": {"k": "other"}}, "create configmap cm1 --from-literal=k=v"),
    Case("delete -f -", 'configmap "cm1" deleted', lambda shop: not shop.get("cm cm1"), 0, CONFIG,
         "create configmap cm1 --from-literal=k=v"),
    Case("delete pod p1 --grace-period=0 --force", 'pod "p1" force deleted', lambda shop: not shop.get("pod p1")),
    Case("delete deployment d1 --cascade=orphan --wait=false", 'deployment.apps "d1" deleted',
         lambda shop: shop.get("deploy d1")["metadata"]["finalizers"] == ["orphan"]),
    Case("logs p1", NO_HOST, code=1), Case("logs -f p1 --tail=5", NO_HOST, code=1), Case("exec p1 -- ls", NO_HOST, code=1),
    Case("attach p1", NO_HOST, code=1),
    Case("port-forward p1 18080:80", "unable to forward port because pod is not running", code=1),
    Case("cp p1:/etc/hosts /tmp/kubectl-contract-hosts", NO_HOST, code=1),
    Case("scale deployment d1 --replicas=2", "deployment.apps/d1 scaled",
         lambda shop: (shop.get("deploy d1")["spec"]["replicas"], shop.get("deploy d1")["metadata"]["generation"]) == (2, 2)),
    Case("rollout status deployment d1 --timeout=1s", "Waiting for deployment|timed out", code=1),
    Case("rollout restart deployment d1", "deployment.apps/d1 restarted",
         lambda shop: "restartedAt" in json.dumps(shop.get("deploy d1")["spec"]["template"])),
    Case("rollout pause deployment d1", "paused", lambda shop: shop.get("deploy d1")["spec"]["paused"] is True),
    Case("rollout history deployment d1", "No rollout history found"),
    Case("set image deployment/d1 c=y", "image updated",
         lambda shop: shop.get("deploy d1")["spec"]["template"]["spec"]["containers"][0]["image"] == "y"),
    Case("set resources deployment/d1 --limits=cpu=1", "resource requirements updated",
         lambda shop: shop.get("deploy d1")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "1"}),
    Case("set resources deployment/d1 --requests=cpu=0.5,memory=1024Mi", "resource requirements updated",
         lambda shop: shop.get("deploy d1")["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"] == {
             "cpu": "500m", "memory": "1Gi"}),
    Case("label pod p1 a=b", "pod/p1 labeled", lambda shop: labels(shop, "pod p1") == {"a": "b"}),
    Case("annotate node n1 a=b", "annotated", lambda shop: shop.get("node n1")["metadata"]["annotations"]["a"] == "b"),
    Case("edit configmap other", "configmap/other edited", lambda shop: shop.get("cm other")["data"] == {"edited": "v"}),
    Case("expose deployment d1 --port=80", "service/d1 exposed",
         lambda shop: shop.get("svc d1")["spec"]["selector"] == {"app": "d1"}),
    Case("run r1 --image=x", "pod/r1 created", lambda shop: shop.get("pod r1")["spec"]["containers"][0]["image"] == "x"),
    Case("create deployment d2 --image=y --replicas=3", "deployment.apps/d2 created",
         lambda shop: shop.get("deploy d2")["spec"]["replicas"] == 3),
    Case("create job j1 --image=x", "job.batch/j1 created", lambda shop: shop.get("job j1")["spec"]["backoffLimit"] == 6),
    Case("create cronjob cj --image=x --schedule=@daily", "cronjob.batch/cj created",
         lambda shop: shop.get("cj cj")["spec"]["concurrencyPolicy"] == "Allow"),
    Case("create quota q --hard=pods=3", "resourcequota/q created",
         lambda shop: shop.get("quota q")["spec"]["hard"] == {"pods": "3"}),
    Case("create ingress i --rule=a.com/=s1:80", "ingress.networking.k8s.io/i created",
         lambda shop: shop.get("ing i")["spec"]["rules"][0]["host"] == "a.com"),
    Case("create pdb b --selector=app=d1 --min-available=1", "poddisruptionbudget.policy/b created",
         lambda shop: shop.get("pdb b")["spec"]["minAvailable"] == 1),
    Case("create role r --verb=get --resource=pods", "role.rbac.authorization.k8s.io/r created",
         lambda shop: shop.get("role r")["rules"][0]["verbs"] == ["get"]),
    Case("create rolebinding rb --clusterrole=view --user=u", "created",
         lambda shop: shop.get("rolebinding rb")["roleRef"]["name"] == "view"),
    Case("create secret generic sec --from-literal=k=v", "created", lambda shop: shop.get("secret sec")["data"] == {"k": "dg=="}),
    Case("autoscale deployment d1 --max=3 --cpu-percent=50", "autoscaled",
         lambda shop: shop.get("hpa d1")["spec"]["maxReplicas"] == 3),
    Case("explain pod", r"KIND: +Pod\nVERSION: +v1\n"), Case("explain pod.spec.containers --recursive", "livenessProbe"),
    Case("explain hpa --api-version=autoscaling/v1", r"VERSION: +v1"), Case("explain netpol.spec", "policyTypes"),
    Case("auth can-i get pods", "^yes"),
    Case("auth can-i --list", r"(?s)Resources +Non-Resource URLs +Resource Names +Verbs.*selfsubjectreviews\.auth.* \[create]"),
    Case("auth whoami", r"Username +admin"),
    Case("create token default", r"^[\w-]+\.[\w-]+\.[\w-]+\n?$"),
    Case("cordon n1", "cordoned", lambda shop: shop.get("node n1")["spec"]["unschedulable"] is True),
    Case("uncordon n1", "uncordoned", lambda shop: not shop.get("node n1")["spec"].get("unschedulable"), first="cordon n1"),
    Case("drain n1 --ignore-daemonsets --force --timeout=60s", "drained",
         lambda shop: shop.get("node n1")["spec"]["unschedulable"]),
    Case("taint nodes n1 k=v:NoSchedule", "tainted",
         lambda shop: {"key": "k", "value": "v", "effect": "NoSchedule"} in shop.get("node n1")["spec"]["taints"]),
    Case("top nodes", "Metrics API not available", code=1),
    Case("wait --for=condition=Ready pod/p1 --timeout=1s", "timed out waiting for the condition", code=1),
    Case("wait --for=jsonpath={.status.phase}=Pending pod/p1 --timeout=60s", "condition met"),
    Case("debug p1 --image=x", "Defaulting debug container name",
         lambda shop: [item["image"] for item in shop.get("pod p1")["spec"]["ephemeralContainers"]] == ["x"]),
    Case("events", "No events found|LAST SEEN"),
    Case("cluster-info", "control plane"),
    Case("get endpoints", "Warning: v1 Endpoints is deprecated in v1.33"),
    Case("api-resources --api-group=", r"bindings +v1 +true +Binding"),
    Case('patch service s1 -p {"spec":{"externalIPs":["192.0.2.1"]}}', "service/s1 patched",
         lambda shop: shop.get("svc s1")["spec"]["externalIPs"] == ["192.0.2.1"]),
    Case("get unicorns", "the server doesn't have a resource type", code=1),
    Case("get pod nobody", r'pods "nobody" not found', code=1),
]


@pytest.fixture
def shop(api: ApiServer) -> Iterator[Shop]:
    shop = Shop(api)
    yield shop
    api.call("DELETE", f"/api/v1/nodes/{shop.node}")


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.command}" for number, case in enumerate(CASES)])
def test_a_command_of_the_contract(shop: Shop, case: Case) -> None:
    if case.first:
        shop.run(case.first, check=True)
    done = shop.run(case.command, json.dumps(case.stdin) if case.stdin else "")
    shown = done.stdout + done.stderr
    assert done.returncode == case.code, shown
    assert re.search(case.prints, shown), shown
    assert case.after(shop), shown


def test_every_command_of_the_recording_is_here() -> None:
    recorded = {line.removeprefix("kubectl ").replace("cm.yaml", "-").replace("cm1", "other")
                for line in Path(__file__).with_name("kubectl_requests.txt").read_text().splitlines()
                if line.startswith("kubectl ")}
    apart = {"get pods -w", "patch service s1 -p <patch>", "cp p1:/etc/hosts hosts", "rollout status deployment d1 --timeout=3s",
             "wait --for=condition=Ready pod/p1 --timeout=2s", "drain n1 --ignore-daemonsets --force --timeout=3s"}
    assert recorded - {case.command for case in CASES} == apart


def test_a_watch_prints_rows_with_wide_columns(shop: Shop) -> None:
    config = str(shop.api.file("admin.kubeconfig"))
    argv = ["kubectl", "--kubeconfig", config, "-n", shop.namespace, "get", "jobs", "-w", "-o", "wide"]
    shop.run("create job first --image=x", check=True)
    watching = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    try:
        heads = ["NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
        assert watching.stdout.readline().split() == heads
        assert watching.stdout.readline().split()[:3] == ["first", "Running", "0/1"]
        shop.run("create job second --image=y", check=True)
        row = watching.stdout.readline().split()
        assert (row[0], row[1], row[2]) == ("second", "Running", "0/1")
        assert "y" in row
    finally:
        watching.kill()
        watching.wait()
        watching.stdout.close()

