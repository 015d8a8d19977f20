"""The roles and bindings that are there from the beginning: Kubernetes' default policy, as data.

A line of a role is `verbs | groups | resources [| names]`, `core` standing for the group of core/v1 and `*` for all;
or `verbs | /paths`. Pure. Must not know: how they are stored. Read next: `policy_controllers.py`, `../upkeep/policy_objects.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.auth.policy_controllers import CONTROLLERS

Object = dict[str, Any]
API = "rbac.authorization.k8s.io"
BOOTSTRAPPING = {"kubernetes.io/bootstrapping": "rbac-defaults"}
AUTOUPDATE = {"rbac.authorization.kubernetes.io/autoupdate": "true"}
AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"
READ, WRITE = "get list watch", "create delete deletecollection patch update"
EVENTS = ("create patch update | core,events.k8s.io | events",)
REVIEWS = ("create | authentication.k8s.io | tokenreviews", "create | authorization.k8s.io | subjectaccessreviews")
HEALTH = "/healthz /livez /readyz /version /version/"

CLUSTER_ROLES: dict[str, tuple[str, ...]] = {
    "cluster-admin": ("* | * | *", "* | *"),
    "system:discovery": (f"get | /api /api/* /apis /apis/* /openapi /openapi/* {HEALTH}",),
    "system:public-info-viewer": (f"get | {HEALTH}",),
    "system:monitoring": ("get | /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*",),
    "system:basic-user": (
        "create | authorization.k8s.io | selfsubjectaccessreviews selfsubjectrulesreviews",
        "create | authentication.k8s.io | selfsubjectreviews"),
    "system:auth-delegator": REVIEWS,
    "system:service-account-issuer-discovery": (
        "get | /.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",),
    "system:node-bootstrapper": ("create get list watch | certificates.k8s.io | certificatesigningrequests",),
    "system:certificates.k8s.io:certificatesigningrequests:nodeclient": (
        "create | certificates.k8s.io | certificatesigningrequests/nodeclient",),
    "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient": (
        "create | certificates.k8s.io | certificatesigningrequests/selfnodeclient",),
    **{f"system:certificates.k8s.io:{signer}-approver": (f"approve | certificates.k8s.io | signers | kubernetes.io/{signer}",)
       for signer in ("legacy-unknown", "kubelet-serving", "kube-apiserver-client", "kube-apiserver-client-kubelet")},
    "system:kubelet-api-admin": (
        "get list watch proxy | core | nodes",
        "* | core | nodes/proxy nodes/log nodes/metrics nodes/stats nodes/healthz nodes/configz nodes/pods nodes/spec"),
    "system:node": (
        *REVIEWS, f"{READ} | core | services", "create get list watch | core | nodes",
        "patch update | core | nodes nodes/status", *EVENTS, f"{READ} | core | pods", "create delete | core | pods",
        "patch update | core | pods/status", "create | core | pods/eviction", "get list watch | core | configmaps secrets",
        "get | core | persistentvolumeclaims persistentvolumes", "get | core | endpoints",
        "create get list watch | certificates.k8s.io | certificatesigningrequests",
        "create delete get patch update | coordination.k8s.io | leases", "get | storage.k8s.io | volumeattachments",
        "create | core | serviceaccounts/token", "get patch update | core | persistentvolumeclaims/status",
        f"{READ} | storage.k8s.io | csidrivers", "create delete get patch update | storage.k8s.io | csinodes",
        f"{READ} | node.k8s.io | runtimeclasses"),
    "system:node-proxier": (
        "list watch | core | services endpoints", "get list watch | core | nodes", *EVENTS,
        "list watch | discovery.k8s.io | endpointslices", "list watch | networking.k8s.io | servicecidrs"),
    "system:node-problem-detector": ("get | core | nodes", "patch | core | nodes/status", *EVENTS),
    "system:kube-dns": ("list watch | core | endpoints services",),
    "system:kube-scheduler": (
        *EVENTS, "create | coordination.k8s.io | leases",
        "get list update watch | coordination.k8s.io | leases | kube-scheduler",
        "create | coordination.k8s.io | leasecandidates", f"{READ} | core | nodes", "delete get list watch | core | pods",
        "create | core | bindings pods/binding", "patch update | core | pods/status",
        f"{READ} | core | replicationcontrollers services persistentvolumeclaims persistentvolumes namespaces",
        f"{READ} | apps | replicasets statefulsets", f"{READ} | policy | poddisruptionbudgets",
        "update | core | persistentvolumeclaims persistentvolumes", *REVIEWS,
        f"{READ} | storage.k8s.io | csinodes csidrivers csistoragecapacities storageclasses volumeattachments"),
    "system:volume-scheduler": (
        "get list patch update watch | core | persistentvolumes persistentvolumeclaims",
        f"{READ} | storage.k8s.io | storageclasses"),
    "system:kube-controller-manager": (
        *EVENTS, "create | coordination.k8s.io | leases",
        "get update | coordination.k8s.io | leases | kube-controller-manager", "create | core | secrets serviceaccounts",
        "delete | core | secrets", "get | core | configmaps namespaces secrets serviceaccounts",
        "update | core | secrets serviceaccounts", *REVIEWS, "list watch | * | *", "create | core | serviceaccounts/token"),
    "system:persistent-volume-provisioner": (
        "create delete get list watch | core | persistentvolumes", "get list update watch | core | persistentvolumeclaims",
        f"{READ} | storage.k8s.io | storageclasses", f"{READ} | core | events", *EVENTS),
    "system:aggregate-to-view": (
        f"{READ} | core | configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods "
            "replicationcontrollers "
        "replicationcontrollers/scale serviceaccounts services services/status",
        f"{READ} | core | bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status "
        "resourcequotas resourcequotas/status", f"{READ} | core | namespaces", f"{READ} | discovery.k8s.io | endpointslices",
        f"{READ} | apps | controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status "
        "replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
        f"{READ} | autoscaling | horizontalpodautoscalers horizontalpodautoscalers/status",
        f"{READ} | batch | cronjobs cronjobs/status jobs jobs/status",
        f"{READ} | policy | poddisruptionbudgets poddisruptionbudgets/status",
        f"{READ} | networking.k8s.io | ingresses ingresses/status networkpolicies"),
    "system:aggregate-to-edit": (
        f"{READ} | core | pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy",
        "impersonate | core | serviceaccounts",
        f"{WRITE} | core | pods pods/attach pods/exec pods/portforward pods/proxy", "create | core | pods/eviction",
        f"{WRITE} | core | configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale "
            "secrets "
        "serviceaccounts services services/proxy", "create | core | serviceaccounts/token",
        f"{WRITE} | apps | daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale "
        "statefulsets statefulsets/scale", f"{WRITE} | autoscaling | horizontalpodautoscalers",
        f"{WRITE} | batch | cronjobs jobs", f"{WRITE} | policy | poddisruptionbudgets",
        f"{WRITE} | networking.k8s.io | ingresses networkpolicies",
        f"{READ} {WRITE} | coordination.k8s.io | leases"),
    "system:aggregate-to-admin": (
        "create | authorization.k8s.io | localsubjectaccessreviews",
        f"{READ} {WRITE} | rbac.authorization.k8s.io | roles rolebindings"),
}
AGGREGATES = {"admin": ("admin",), "edit": ("edit",), "view": ("view",)}
LABELS = {
    "system:aggregate-to-admin": "admin", "system:aggregate-to-edit": "edit", "system:aggregate-to-view": "view",
    "edit": "admin", "view": "edit",
}
ROLES: dict[tuple[str, str], tuple[str, ...]] = {
    ("kube-system", "extension-apiserver-authentication-reader"): (
        f"{READ} | core | configmaps | extension-apiserver-authentication",),
    ("kube-system", "system::leader-locking-kube-controller-manager"): (
        "watch | core | configmaps", "get update | core | configmaps | kube-controller-manager"),
    ("kube-system", "system::leader-locking-kube-scheduler"): (
        "watch | core | configmaps", "get update | core | configmaps | kube-scheduler"),
    ("kube-public", "minik8s:cluster-info"): ("get | core | configmaps | cluster-info",),
}
GROUP, USER = "Group", "User"
CLUSTER_BINDINGS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "cluster-admin": ("cluster-admin", ((GROUP, "system:masters"),)),
    "system:monitoring": ("system:monitoring", ((GROUP, "system:monitoring"),)),
    "system:discovery": ("system:discovery", ((GROUP, "system:authenticated"),)),
    "system:basic-user": ("system:basic-user", ((GROUP, "system:authenticated"),)),
    "system:public-info-viewer": ("system:public-info-viewer", ((GROUP, "system:authenticated"),
        (GROUP, "system:unauthenticated"))),
    "system:service-account-issuer-discovery": (
        "system:service-account-issuer-discovery", ((GROUP, "system:serviceaccounts"),)),
    "system:node-proxier": ("system:node-proxier", ((USER, "system:kube-proxy"),)),
    "system:kube-controller-manager": ("system:kube-controller-manager", ((USER, "system:kube-controller-manager"),)),
    "system:kube-dns": ("system:kube-dns", (("ServiceAccount", "kube-system/kube-dns"),)),
    "system:kube-scheduler": ("system:kube-scheduler", ((USER, "system:kube-scheduler"),)),
    "system:volume-scheduler": ("system:volume-scheduler", ((USER, "system:kube-scheduler"),)),
    "minik8s:kubelet-api": ("system:kubelet-api-admin", ((USER, "kube-apiserver-kubelet-client"),)),
    "minik8s:node-bootstrapper": ("system:node-bootstrapper", ((GROUP, "system:bootstrappers"),)),
    "minik8s:node-client": (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient", ((GROUP, "system:bootstrappers"),)),
    "minik8s:own-node-client": (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", ((GROUP, "system:nodes"),)),
    **{name: (name, (("ServiceAccount", f"kube-system/{name.rpartition(':')[2]}"),)) for name in CONTROLLERS},
    **{name.replace("system:", "minik8s:"): (name, ((USER, "system:kube-controller-manager"),)) for name in CONTROLLERS},
}
BINDINGS: dict[tuple[str, str], tuple[str, tuple[tuple[str, str], ...]]] = {
    ("kube-system", "system::extension-apiserver-authentication-reader"): (
        "extension-apiserver-authentication-reader",
        ((USER, "system:kube-controller-manager"), (USER, "system:kube-scheduler"))),
    ("kube-system", "system::leader-locking-kube-controller-manager"): (
        "system::leader-locking-kube-controller-manager", ((USER, "system:kube-controller-manager"),)),
    ("kube-system", "system::leader-locking-kube-scheduler"): (
        "system::leader-locking-kube-scheduler", ((USER, "system:kube-scheduler"),)),
    ("kube-public", "minik8s:cluster-info"): ("minik8s:cluster-info", ((USER, "system:anonymous"),)),
}


def default_policy() -> list[Object]:
    """Every object of the default policy, roles before bindings."""
    roles = [_role(name, lines) for name, lines in (CLUSTER_ROLES | CONTROLLERS).items()]
    roles += [_aggregating(name) for name in AGGREGATES]
    roles += [_role(name, lines, namespace) for (namespace, name), lines in ROLES.items()]
    bindings = [_binding(name, role, subjects) for name, (role, subjects) in CLUSTER_BINDINGS.items()]
    bindings += [_binding(name, role, subjects, namespace) for (namespace, name), (role, subjects) in BINDINGS.items()]
    return roles + bindings


def line(text: str) -> Object:
    """One line as a PolicyRule."""
    verbs, second, *rest = (part.split() for part in text.split("|"))
    if not rest:
        return {"nonResourceURLs": second, "verbs": verbs}
    found: Object = {"verbs": verbs, "resources": rest[0],
                     "apiGroups": ["" if group == "core" else group for group in second[0].split(",")]}
    if len(rest) > 1:
        found["resourceNames"] = rest[1]
    return found


def _head(kind: str, name: str, namespace: str = "") -> Object:
    meta: Object = {"name": name, "labels": dict(BOOTSTRAPPING), "annotations": dict(AUTOUPDATE)}
    if namespace:
        meta["namespace"] = namespace
    return {"apiVersion": f"{API}/v1", "kind": kind, "metadata": meta}


def _labelled(obj: Object) -> Object:
    target = LABELS.get(obj["metadata"]["name"])
    if target:
        obj["metadata"]["labels"][AGGREGATE + target] = "true"
    return obj


def _role(name: str, lines: tuple[str, ...], namespace: str = "") -> Object:
    return _labelled({**_head("Role" if namespace else "ClusterRole", name, namespace),
        "rules": [line(each) for each in lines]})


def _aggregating(name: str) -> Object:
    selectors = [{"matchLabels": {AGGREGATE + each: "true"}} for each in AGGREGATES[name]]
    return _labelled({**_head("ClusterRole", name), "aggregationRule": {"clusterRoleSelectors": selectors}, "rules": []})


def _binding(name: str, role: str, subjects: tuple[tuple[str, str], ...], namespace: str = "") -> Object:
    kind = "Role" if namespace else "ClusterRole"
    return {**_head(f"{kind}Binding", name, namespace), "roleRef": {"apiGroup": API, "kind": kind, "name": role},
            "subjects": [_subject(*each) for each in subjects]}


def _subject(kind: str, name: str) -> Object:
    if kind == "ServiceAccount":
        namespace, _, account = name.partition("/")
        return {"kind": kind, "name": account, "namespace": namespace}
    return {"kind": kind, "name": name, "apiGroup": API}
