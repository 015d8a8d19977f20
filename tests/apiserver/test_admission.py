"""Admission on a live server: what pods are given, what is refused, in namespaces that ask for it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from minik8s.apiserver.admission.podsecurity_rules import broken
from minik8s.apiserver.admission.quota_usage import in_scope, not_kept
from tests.apiserver.apiprocess import Answer, ApiServer
from tests.labs import until

CORE = "/api/v1/namespaces"
number = itertools.count()
OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u"}
MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def namespace(api: ApiServer, **labels: str) -> str:
    name = f"adm-{next(number)}"
    meta = {"name": name, "labels": {f"pod-security.kubernetes.io/{key}": value for key, value in labels.items()}}
    assert api.call("POST", CORE, {"metadata": meta}).code == 201
    return name


@pytest.fixture
def ns(api: ApiServer) -> str:
    return namespace(api)


def pod(name: str, *, resources: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    one = {"name": "c", "image": "i", **({"resources": resources} if resources else {})}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": {"containers": [one], **spec}}


def make(api: ApiServer, ns: str, obj: dict[str, Any], plural: str = "pods", **more: Any) -> Answer:
    return api.call("POST", f"{CORE}/{ns}/{plural}", obj, **more)


def test_a_pod_gets_its_account_and_token(api: ApiServer, ns: str) -> None:
    made = make(api, ns, pod("p")).body
    assert made["spec"]["serviceAccountName"] == made["spec"]["serviceAccount"] == "default"
    (volume,) = made["spec"]["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    sources = [next(iter(source)) for source in volume["projected"]["sources"]]
    assert sources == ["serviceAccountToken", "configMap", "downwardAPI"]
    mount = made["spec"]["containers"][0]["volumeMounts"][0]
    assert (mount["name"], mount["mountPath"], mount["readOnly"]) == (volume["name"], MOUNT, True)
    assert made["status"]["qosClass"] == "BestEffort"
    until(lambda: "BEGIN CERTIFICATE" in api.call("GET", f"{CORE}/{ns}/configmaps/kube-root-ca.crt").body["data"]["ca.crt"],
          what="the CA is there")


@pytest.mark.slow
def test_a_pod_without_a_token(api: ApiServer, ns: str) -> None:
    assert "volumes" not in make(api, ns, pod("no", automountServiceAccountToken=False)).body["spec"]
    account = {"metadata": {"name": "plain"}, "automountServiceAccountToken": False, "imagePullSecrets": [{"name": "pull"}]}
    assert make(api, ns, account, "serviceaccounts").code == 201
    made = make(api, ns, pod("plain", serviceAccountName="plain")).body["spec"]
    assert "volumes" not in made
    assert made["imagePullSecrets"] == [{"name": "pull"}]
    refused = make(api, ns, pod("none", serviceAccountName="none"))
    assert refused.code == 403
    assert 'serviceaccount "none" not found' in refused.body["message"]


def test_tolerations_and_priority(api: ApiServer, ns: str) -> None:
    made = make(api, ns, pod("p")).body["spec"]
    assert {each["key"]: each["tolerationSeconds"] for each in made["tolerations"]} == {
        "node.kubernetes.io/not-ready": 300, "node.kubernetes.io/unreachable": 300}
    assert (made["priority"], made["preemptionPolicy"]) == (0, "PreemptLowerPriority")
    kind = {"metadata": {"name": f"high-{ns}"}, "value": 1000, "preemptionPolicy": "Never"}
    assert api.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", kind).code == 201
    until(lambda: make(api, ns, pod("high", priorityClassName=f"high-{ns}")).code in (201, 409), what="the class is known")
    high = api.call("GET", f"{CORE}/{ns}/pods/high").body["spec"]
    assert (high["priority"], high["preemptionPolicy"]) == (1000, "Never")
    assert make(api, ns, pod("x", priorityClassName="none")).code == 403
    assert make(api, ns, pod("y", priority=7)).code == 403
    assert make(api, ns, pod("z", priorityClassName="system-node-critical")).body["spec"]["priority"] == 2000001000
    above = {"metadata": {"name": "above"}, "value": 1000000001}
    assert api.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", above).code in (403, 422)


def test_limit_ranges(api: ApiServer, ns: str) -> None:
    limits = {"metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "250m"}, "max": {"cpu": "2"},
         "min": {"cpu": "100m"}},
        {"type": "Pod", "max": {"cpu": "3"}}]}}
    assert make(api, ns, limits, "limitranges").code == 201
    until(lambda: make(api, ns, pod("first", resources={"limits": {"cpu": "5"}})).code == 403, what="limits are known")
    made = make(api, ns, pod("p")).body
    assert made["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "500m"}, "requests": {"cpu": "250m"}}
    assert made["status"]["qosClass"] == "Burstable"
    big = make(api, ns, pod("big", resources={"limits": {"cpu": "2500m"}}))
    assert "maximum cpu usage per Container is 2, but limit is 2500m" in big.body["message"]
    small = make(api, ns, pod("small", resources={"requests": {"cpu": "10m"}}))
    assert "minimum cpu usage per Container is 100m, but request is 10m" in small.body["message"]


def test_quota(api: ApiServer, ns: str) -> None:
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2", "requests.cpu": "1", "count/secrets": "1"}}}
    assert make(api, ns, quota, "resourcequotas").code == 201
    small = {"requests": {"cpu": "400m"}}
    until(lambda: make(api, ns, pod("unsaid")).code == 403, what="the quota is known")
    assert "must specify requests.cpu" in make(api, ns, pod("unsaid")).body["message"]
    assert [make(api, ns, pod(f"p{i}", resources=small)).code for i in range(3)] == [201, 201, 403]
    over = make(api, ns, pod("over", resources=small)).body["message"]
    amounts = "requested: pods=1,requests.cpu=400m, used: pods=2,requests.cpu=800m, limited: pods=2,requests.cpu=1"
    assert f"exceeded quota: q, {amounts}" in over
    assert make(api, ns, pod("dry", resources=small)).code == 403
    assert [make(api, ns, {"metadata": {"name": f"s{i}"}}, "secrets").code for i in range(2)] == [201, 403]
    api.call("DELETE", f"{CORE}/{ns}/pods/p0?gracePeriodSeconds=0")
    until(lambda: make(api, ns, pod("next", resources=small)).code == 201, what="there is room again")
    until(lambda: (api.call("GET", f"{CORE}/{ns}/resourcequotas/q").body.get("status") or {}).get("used") == {
        "pods": "2", "requests.cpu": "800m", "count/secrets": "1"}, what="the status says so")


def test_a_quota_this_server_cannot_keep_is_refused_by_name(api: ApiServer, ns: str) -> None:
    scoped = {"metadata": {"name": "s"}, "spec": {"hard": {"pods": "1"}, "scopes": ["CrossNamespacePodAffinity"]}}
    refused = make(api, ns, scoped, "resourcequotas")
    assert refused.code in (403, 422)
    assert "CrossNamespacePodAffinity" in refused.body["message"]


def by_class(operator: str, *values: str, scope: str = "PriorityClass") -> dict[str, Any]:
    return {"scopeSelector": {"matchExpressions": [{"scopeName": scope, "operator": operator, "values": list(values)}]}}


@pytest.mark.parametrize(("quota", "yes", "no"), [
    (by_class("In", "high", "low"), {"priorityClassName": "high"}, {"priorityClassName": "other"}),
    (by_class("NotIn", "high"), {}, {"priorityClassName": "high"}),
    (by_class("Exists"), {"priorityClassName": "high"}, {}), (by_class("DoesNotExist"), {}, {"priorityClassName": "high"}),
    ({"scopes": ["PriorityClass"]}, {"priorityClassName": "high"}, {}),
    ({"scopes": ["Terminating"]}, {"activeDeadlineSeconds": 5}, {}),
    ({"scopes": ["NotTerminating"]}, {}, {"activeDeadlineSeconds": 5}),
    ({"scopes": ["BestEffort"]}, {"containers": [{}]}, {"containers": [{"resources": {"limits": {"cpu": "1"}}}]}),
    (by_class("Exists", scope="NotBestEffort"), {"containers": [{"resources": {"requests": {"cpu": "1"}}}]},
     {"containers": [{}]}),
    ({"scopes": ["Terminating"], **by_class("In", "high")}, {"activeDeadlineSeconds": 5, "priorityClassName": "high"},
     {"priorityClassName": "high"}),
])
def test_scopes_of_quotas(quota: dict[str, Any], yes: dict[str, Any], no: dict[str, Any]) -> None:
    assert not_kept(quota) == ""
    assert in_scope({"spec": quota}, {"kind": "Pod", "spec": yes})
    assert not in_scope({"spec": quota}, {"kind": "Pod", "spec": no})
    assert not in_scope({"spec": quota}, {"kind": "Secret"})


@pytest.mark.parametrize(("quota", "word"), [
    (by_class("In"), "In takes some values"), (by_class("Exists", "x"), "Exists takes no values"), (by_class("Gt", "1"), "Gt"),
    (by_class("In", "x", scope="BestEffort"), "In is none for scope BestEffort"), (by_class("Exists", scope="Odd"), "scope Odd"),
    ({"scopes": ["BestEffort"], "hard": {"count/deployments.apps": "1"}}, "count/deployments.apps"),
    ({"scopes": ["BestEffort"], "hard": {"cpu": "1"}}, "cpu"), ({"scopes": ["Terminating"], "hard": {"secrets": "1"}}, "secrets"),
    ({"scopes": ["Terminating", "NotTerminating"]}, "exclude"), ({"scopes": ["BestEffort", "NotBestEffort"]}, "exclude"),
])
def test_scopes_that_are_none(quota: dict[str, Any], word: str) -> None:
    assert word in not_kept(quota)


GOOD: dict[str, Any] = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
                        "seccompProfile": {"type": "RuntimeDefault"}}


@pytest.mark.parametrize(("spec", "level", "words"), [
    ({"hostNetwork": True, "hostPID": True}, "baseline", "host namespaces (hostNetwork=true, hostPID=true)"),
    ({"containers": [{"name": "a", "securityContext": {"privileged": True}}]}, "baseline",
     'privileged (container "a" must not set securityContext.privileged=true)'),
    ({"containers": [{"name": "a", "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}]}, "baseline",
     'non-default capabilities (container "a" must not include "NET_ADMIN" in securityContext.capabilities.add)'),
    ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "baseline", 'hostPath volumes (volume "v")'),
    ({"containers": [{"name": "a", "ports": [{"hostPort": 80}]}]}, "baseline", 'hostPort (container "a" uses hostPort 80)'),
    ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "baseline", "seccompProfile"),
    ({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}, "baseline", "forbidden sysctls (kernel.msgmax)"),
    ({"securityContext": {"seLinuxOptions": {"user": "x"}}}, "baseline", "seLinuxOptions"),
    ({"ephemeralContainers": [{"name": "e", "securityContext": {"procMount": "Unmasked"}}]}, "baseline", "procMount"),
    ({"containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]}, "baseline",
     "forbidden AppArmor profile"),
    ({"securityContext": {"windowsOptions": {"hostProcess": True}}}, "baseline", "hostProcess"),
    ({"initContainers": [{"name": "i", "securityContext": {"seLinuxOptions": {"type": "spc_t"}}}]}, "baseline", "seLinuxOptions"),
    ({"hostIPC": True}, "baseline", "host namespaces (hostIPC=true)"),
    ({"containers": [{"name": "a", "securityContext": {**GOOD, "runAsNonRoot": None}}]}, "restricted", "runAsNonRoot != true"),
    ({"containers": [{"name": "a", "securityContext": {**GOOD, "seccompProfile": None}}]}, "restricted",
     'seccompProfile (pod or container "a" must set'),
    ({"containers": [{"name": "a"}]}, "restricted", "allowPrivilegeEscalation != false"),
    ({"containers": [{"name": "a", "securityContext": {**GOOD, "runAsUser": 0}}]}, "restricted", "runAsUser=0"),
    ({"containers": [{"name": "a", "securityContext": {**GOOD, "capabilities": {}}}]}, "restricted", "unrestricted capabilities"),
    ({"containers": [{"name": "a", "securityContext": GOOD}], "volumes": [{"name": "n", "nfs": {}}]}, "restricted",
     'restricted volume types (volume "n" uses restricted volume type "nfs")'),
])
def test_pod_security_rules(spec: dict[str, Any], level: str, words: str) -> None:
    assert any(text.startswith(words) for text in broken(level, {}, spec)), broken(level, {}, spec)
    assert broken("privileged", {}, spec) == []


def test_a_good_pod_breaks_nothing() -> None:
    plain = {"containers": [{"name": "a", "securityContext": GOOD}], "volumes": [{"name": "p", "projected": {}}]}
    assert broken("restricted", {}, plain) == []
    inner = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    whole = {"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
             "containers": [{"name": "a", "securityContext": inner}]}
    assert broken("restricted", {}, whole) == []


def test_pod_security_by_labels(api: ApiServer) -> None:
    ns = namespace(api, enforce="baseline", warn="restricted")
    refused = make(api, ns, pod("host", hostNetwork=True))
    assert refused.code == 403
    assert 'pods "host" is forbidden: violates PodSecurity "baseline:latest": host namespaces' in refused.body["message"]
    warned = make(api, ns, pod("plain"))
    assert warned.code == 201
    assert 'would violate PodSecurity "restricted:latest"' in warned.headers["Warning"].replace("\\", "")
    wrong = api.call("PATCH", f"{CORE}/{ns}", {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "high"}}},
                     content="application/merge-patch+json")
    assert wrong.code in (403, 422)


def test_what_a_node_may_write(api: ApiServer, ns: str) -> None:
    own = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "node-1", "labels": {"kubernetes.io/hostname": "node-1"}}}
    api.call("DELETE", "/api/v1/nodes/node-1")
    assert api.call("POST", "/api/v1/nodes", {**own, "metadata": {"name": "node-9"}}, user="kubelet").code == 403
    assert api.call("POST", "/api/v1/nodes", own, user="kubelet").code == 201

    def patch(name: str, change: dict[str, Any], sub: str = "") -> int:
        path = f"/api/v1/nodes/{name}{sub}"
        return api.call("PATCH", path, change, user="kubelet", content="application/merge-patch+json").code
    assert patch("node-1", {"metadata": {"labels": {"kubernetes.io/arch": "amd64"}}}) == 200
    assert patch("node-1", {"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}}) == 403
    assert patch("node-1", {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}) == 403
    assert patch("node-1", {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}) == 403
    assert patch("node-1", {"status": {"phase": "x"}}, "/status") == 200
    assert patch("node-2", {"status": {"phase": "x"}}, "/status") == 403
    assert make(api, ns, pod("mine", nodeName="node-1"), user="kubelet").code == 403, "not a mirror pod"
    mirror = pod("mirror", nodeName="node-1")
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    made = make(api, ns, mirror, user="kubelet")
    assert made.code == 201, made.body
    assert make(api, ns, {**mirror, "metadata": {**mirror["metadata"], "name": "other"},
                          "spec": {**mirror["spec"], "nodeName": "node-2"}}, user="kubelet").code == 403
    for name, meta, spec in (("heir", {"ownerReferences": [OWNER]}, {}), ("account", {}, {"serviceAccountName": "default"})):
        assert make(api, ns, {**mirror, "metadata": {**mirror["metadata"], "name": name, **meta},
                              "spec": {**mirror["spec"], **spec}}, user="kubelet").code == 403
    assert patch("node-1", {"metadata": {"ownerReferences": [OWNER]}}) == 403, "it would be deleted along with that"
    secret = {**mirror, "metadata": {**mirror["metadata"], "name": "thief"},
              "spec": {**mirror["spec"], "volumes": [{"name": "s", "secret": {"secretName": "x"}}]}}
    assert make(api, ns, secret, user="kubelet").code == 403
