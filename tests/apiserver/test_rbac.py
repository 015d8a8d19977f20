"""Roles and bindings: what their index says, what a live server does with them, and that nobody gives more than they have."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from minik8s.apiserver.auth.authorize import Attributes, User
from minik8s.apiserver.auth.nodes import Graph, decide
from minik8s.apiserver.auth.policy import default_policy
from minik8s.apiserver.auth.rbac import Index, aggregated, read_binding, read_role, rule_of, uncovered
from tests.apiserver.apiprocess import ApiServer
from tests.labs import until

RBAC = "/apis/rbac.authorization.k8s.io/v1"
number = itertools.count()


def role(name: str, *rules: dict[str, Any], namespace: str = "") -> dict[str, Any]:
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"kind": "Role" if namespace else "ClusterRole", "metadata": meta, "rules": list(rules)}


def binding(name: str, kind: str, to: str, *subjects: dict[str, str], namespace: str = "") -> dict[str, Any]:
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"metadata": meta, "roleRef": {"kind": kind, "name": to, "apiGroup": "rbac.authorization.k8s.io"},
            "subjects": list(subjects)}


def rule(verbs: str, resources: str = "", groups: str = "", **more: Any) -> dict[str, Any]:
    return {"verbs": verbs.split(), "apiGroups": [groups], "resources": resources.split(), **more}


def index(*bindings: dict[str, Any], roles: tuple[dict[str, Any], ...]) -> Index:
    return Index(map(read_role, roles), map(read_binding, bindings))


READER = role("reader", rule("get list", "pods pods/log"), rule("get", "secrets", resourceNames=["one"]),
              {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/logs/*"]}, rule("update", "*/scale", "apps"))
NOBODY = {"kind": "User", "name": "nobody", "apiGroup": "rbac.authorization.k8s.io"}
JANE, STAFF = User("jane"), User("joe", ("staff",))


@pytest.mark.parametrize(("asked", "allowed"), [
    (Attributes("get", "", "pods", "a", "x"), True), (Attributes("get", "", "pods/log", "a", "x"), True),
    (Attributes("get", "", "pods/exec", "a", "x"), False), (Attributes("delete", "", "pods", "a", "x"), False),
    (Attributes("get", "apps", "pods", "a", "x"), False), (Attributes("get", "", "secrets", "a", "one"), True),
    (Attributes("get", "", "secrets", "a", "two"), False), (Attributes("list", "", "secrets", "a"), False),
    (Attributes("get", path="/metrics"), True), (Attributes("get", path="/metrics/x"), False),
    (Attributes("get", path="/logs/a/b"), True), (Attributes("update", "apps", "deployments/scale", "a", "x"), True),
    (Attributes("update", "apps", "deployments", "a", "x"), False),
])
def test_rules(asked: Attributes, allowed: bool) -> None:
    everywhere = index(binding("b", "ClusterRole", "reader", {"kind": "User", "name": "jane"}), roles=(READER,))
    assert bool(everywhere.allows(JANE, asked)) is allowed
    assert not everywhere.allows(STAFF, asked)


def test_a_role_binding_reaches_its_namespace_only() -> None:
    found = index(binding("b", "ClusterRole", "reader", {"kind": "Group", "name": "staff"}, namespace="a"), roles=(READER,))
    assert found.allows(STAFF, Attributes("list", "", "pods", "a")) == \
        'RBAC: allowed by RoleBinding "b/a" of ClusterRole "reader" to Group "staff"'
    assert not found.allows(STAFF, Attributes("list", "", "pods", "b"))
    assert not found.allows(STAFF, Attributes("list", "", "pods"))
    assert not found.allows(STAFF, Attributes("get", path="/metrics"))


def test_a_service_account_is_a_subject() -> None:
    found = index(binding("b", "Role", "r", {"kind": "ServiceAccount", "name": "bot"}, namespace="a"),
                  roles=(role("r", rule("*", "*", "*"), namespace="a"),))
    assert found.allows(User("system:serviceaccount:a:bot"), Attributes("delete", "", "pods", "a"))
    assert not found.allows(User("system:serviceaccount:b:bot"), Attributes("delete", "", "pods", "a"))


def test_what_is_not_covered_is_an_escalation() -> None:
    own = (rule_of(rule("get list", "pods")), rule_of(rule("get", "secrets", resourceNames=["one"])))
    assert not uncovered(own, [rule_of(rule("get", "pods"))])
    assert not uncovered(own, [rule_of(rule("get", "secrets", resourceNames=["one"]))])
    for wanted in (rule("watch", "pods"), rule("get", "secrets"), rule("get", "secrets", resourceNames=["two"]),
                   rule("*", "pods"), rule("get", "*"), rule("get", "pods/log"), {"verbs": ["get"], "nonResourceURLs": ["/x"]}):
        assert uncovered(own, [rule_of(wanted)]), wanted
    assert not uncovered([rule_of(rule("*", "*", "*"))], [rule_of(rule("get", "pods/log", "x", resourceNames=["y"]))])


def test_aggregation_is_by_labels() -> None:
    view = {"metadata": {"name": "view"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}}
    part = {"metadata": {"name": "part", "labels": {"to": "view"}}, "rules": [rule("get", "pods")]}
    assert aggregated(view, [view, part, READER]) == [rule("get", "pods")]
    assert aggregated(READER, [part]) is None


def test_the_default_policy_holds_together() -> None:
    objects = default_policy()
    names = {(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]) for each in objects}
    assert len(names) == len(objects)
    for each in objects:
        if ref := each.get("roleRef"):
            assert (ref["kind"], each["metadata"].get("namespace", "") if ref["kind"] == "Role" else "", ref["name"]) in names


GRAPH = Graph()
GRAPH.put("a/p", {"metadata": {"name": "p", "namespace": "a"}, "spec": {
    "nodeName": "n1", "imagePullSecrets": [{"name": "pull"}],
    "volumes": [{"secret": {"secretName": "s"}}, {"projected": {"sources": [{"configMap": {"name": "root"}}]}},
                {"persistentVolumeClaim": {"claimName": "disk"}}],
    "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}], "envFrom": [{"configMapRef": {"name": "c"}}]}]}})


@pytest.mark.parametrize(("asked", "mine"), [
    *((Attributes("get", "", "secrets", "a", name), True) for name in ("s", "env", "pull")),
    (Attributes("get", "", "configmaps", "a", "c"), True), (Attributes("get", "", "configmaps", "a", "root"), True),
    (Attributes("get", "", "persistentvolumeclaims", "a", "disk"), True),
    (Attributes("create", "", "serviceaccounts/token", "a", "default"), True),
    (Attributes("get", "", "pods", "a", "p"), True), (Attributes("patch", "", "pods/status", "a", "p"), True),
    (Attributes("list", "", "pods", fields="spec.nodeName=n1"), True), (Attributes("patch", "", "nodes/status", "", "n1"), True),
    (Attributes("update", "coordination.k8s.io", "leases", "kube-node-lease", "n1"), True),
])
def test_a_node_and_its_own(asked: Attributes, mine: bool) -> None:
    assert decide(GRAPH, "n1", asked)
    assert not decide(GRAPH, "n2", asked)


@pytest.mark.parametrize("asked", [
    Attributes("get", "", "secrets", "a", "other"), Attributes("list", "", "secrets", "a"), Attributes("list", "", "secrets"),
    Attributes("get", "", "secrets", "b", "s"), Attributes("update", "", "secrets", "a", "s"), Attributes("list", "", "pods"),
    Attributes("create", "", "serviceaccounts/token", "a", "admin"), Attributes("delete", "", "nodes", "", "n1"),
    Attributes("create", "apps", "deployments", "a"), Attributes("get", path="/metrics"),
    Attributes("update", "coordination.k8s.io", "leases", "kube-system", "n1"),
    Attributes("list", "", "pods", fields=r"status.phase!=\,spec.nodeName=n1"),
    Attributes("list", "", "pods", fields="spec.nodeName!=n1"), Attributes("list", "", "pods", fields=r"spec.nodeName=n1\,"),
])
def test_what_no_node_may(asked: Attributes) -> None:
    assert not decide(GRAPH, "n1", asked)


def test_what_is_gone_is_no_longer_a_nodes() -> None:
    graph = Graph()
    pod = {"metadata": {"name": "p", "namespace": "a"}, "spec": {"nodeName": "n1", "volumes": [{"secret": {"secretName": "s"}}]}}
    graph.put("a/p", pod)
    graph.put("a/q", {**pod, "metadata": {"name": "q", "namespace": "a"}})
    graph.drop("a/p")
    assert graph.refers("n1", "secrets", "a", "s")
    graph.drop("a/q")
    assert not graph.refers("n1", "secrets", "a", "s")


def make(api: ApiServer, plural: str, obj: dict[str, Any]) -> None:
    namespace = obj["metadata"].get("namespace")
    made = api.call("POST", f"{RBAC}/{f'namespaces/{namespace}/' if namespace else ''}{plural}", obj)
    assert made.code == 201, made.body


@pytest.fixture
def ns(api: ApiServer) -> str:
    name = f"rbac-{next(number)}"
    assert api.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}}).code == 201
    return name


def test_a_binding_counts_at_once(api: ApiServer, ns: str) -> None:
    path = f"/api/v1/namespaces/{ns}/pods"
    assert api.call("GET", path, user="nobody").code == 403
    make(api, "roles", role("look", rule("list", "pods"), namespace=ns))
    make(api, "rolebindings", binding("look", "Role", "look", NOBODY, namespace=ns))
    until(lambda: api.call("GET", path, user="nobody").code == 200, what="the binding counts")
    assert "yes" in api.kubectl("auth", "can-i", "list", "pods", "-n", ns, user="nobody").stdout
    assert api.kubectl("auth", "can-i", "list", "secrets", "-n", ns, user="nobody", check=False).stdout.strip() == "no"
    api.kubectl("delete", "rolebinding", "look", "-n", ns)
    until(lambda: api.call("GET", path, user="nobody").code == 403, what="the binding no longer counts")


def test_default_roles_are_there_and_filled(api: ApiServer) -> None:
    roles = {item["metadata"]["name"]: item for item in api.call("GET", f"{RBAC}/clusterroles").body["items"]}
    assert {"cluster-admin", "admin", "edit", "view", "system:node", "system:kube-scheduler", "system:basic-user"} <= roles.keys()
    until(lambda: api.call("GET", f"{RBAC}/clusterroles/admin").body.get("rules"), what="admin is aggregated")
    assert any("deployments" in rule["resources"] for rule in api.call("GET", f"{RBAC}/clusterroles/admin").body["rules"])


def test_a_role_that_joins_an_aggregate(api: ApiServer) -> None:
    labelled = {"metadata": {"name": "crd-view", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
                "rules": [rule("get", "unicorns", "example.com")]}
    assert api.call("POST", f"{RBAC}/clusterroles", labelled).code == 201
    for name in ("view", "edit", "admin"):
        until(lambda name=name: any("unicorns" in each["resources"]
              for each in api.call("GET", f"{RBAC}/clusterroles/{name}").body["rules"]), what=f"{name} has it")
    api.call("DELETE", f"{RBAC}/clusterroles/crd-view")
    until(lambda: not any("unicorns" in each["resources"]
                          for each in api.call("GET", f"{RBAC}/clusterroles/view").body["rules"]), what="it is gone")


def test_a_role_reference_stays(api: ApiServer, ns: str) -> None:
    make(api, "rolebindings", binding("b", "ClusterRole", "view", NOBODY, namespace=ns))
    changed = api.call("PATCH", f"{RBAC}/namespaces/{ns}/rolebindings/b", {"roleRef": {"name": "edit"}},
                       content="application/merge-patch+json")
    assert changed.code == 422
    assert "cannot change roleRef" in changed.body["message"]
def test_nobody_gives_more_than_they_have(api: ApiServer, ns: str) -> None:
    make(api, "rolebindings", binding("boss", "ClusterRole", "admin", NOBODY, namespace=ns))
    path = f"{RBAC}/namespaces/{ns}"
    until(lambda: api.call("GET", f"{path}/roles", user="nobody").code == 200, what="nobody is the admin here")
    made = api.call("POST", f"{path}/roles", {"metadata": {"name": "fine"}, "rules": [rule("get", "pods")]}, user="nobody")
    assert made.code == 201, made.body
    refused = api.call("POST", f"{path}/roles", {"metadata": {"name": "no"}, "rules": [rule("get", "nodes")]}, user="nobody")
    assert refused.code == 403
    assert "attempting to grant RBAC permissions not currently held" in refused.body["message"]
    things = [f"thing-{number}" for number in range(40)]
    vast = api.call("POST", f"{path}/roles", {"metadata": {"name": "vast"}, "rules": [
        {"verbs": things, "apiGroups": things, "resources": things}]}, user="nobody")
    assert (vast.code, "too many to hold against" in vast.body["message"]) == (403, True)
    widened = api.call("PATCH", f"{path}/roles/fine", {"rules": [rule("*", "*", "*")]}, user="nobody",
                       content="application/merge-patch+json")
    assert widened.code == 403
    bound = {**binding("up", "ClusterRole", "cluster-admin", {"kind": "User", "name": "nobody",
                                                              "apiGroup": "rbac.authorization.k8s.io"})}
    assert api.call("POST", f"{path}/rolebindings", bound, user="nobody").code == 403
    own = binding("own", "Role", "fine", {"kind": "User", "name": "x", "apiGroup": "rbac.authorization.k8s.io"})
    assert api.call("POST", f"{path}/rolebindings", own, user="nobody").code == 201


def test_kubectl_lists_what_one_may(api: ApiServer, ns: str) -> None:
    api.kubectl("create", "role", "look", "--verb=list", "--resource=pods", "-n", ns)
    api.kubectl("create", "rolebinding", "look", "--role=look", "--user=nobody", "-n", ns)
    until(lambda: "yes" in api.kubectl("auth", "can-i", "list", "pods", "-n", ns, user="nobody", check=False).stdout, what="yes")
    listed = api.kubectl("auth", "can-i", "--list", "-n", ns, user="nobody").stdout
    assert [line.split() for line in listed.splitlines() if line.startswith("pods ")] == [["pods", "[]", "[]", "[list]"]]
    assert "selfsubjectaccessreviews" in listed


def test_reconcile(api: ApiServer, ns: str) -> None:
    text = f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: rec, namespace: {ns}}}
rules: [{{apiGroups: [""], resources: [pods], verbs: [get]}}]
"""
    assert "reconciled" in api.kubectl("auth", "reconcile", "-f", "-", stdin=text).stdout
    assert "reconciled" in api.kubectl("auth", "reconcile", "-f", "-", stdin=text.replace("verbs: [get]", "verbs: [list]")).stdout
    rules = api.call("GET", f"{RBAC}/namespaces/{ns}/roles/rec").body["rules"]
    assert {verb for each in rules for verb in each["verbs"]} == {"get", "list"}
