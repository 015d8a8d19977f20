"""What each controller may do: the `system:controller:*` part of the default policy, in the notation of `policy.py`.

Pure data. Read next: `policy.py`.
"""

from __future__ import annotations

EVENTS = "create patch update | core,events.k8s.io | events"
PODS = "create delete get list patch watch | core | pods"
READ = "get list watch"
HISTORY = "create delete get list patch update watch | apps | controllerrevisions"

_ROLES: dict[str, tuple[str, ...]] = {
    "attachdetach-controller": (
        "list watch | core | persistentvolumeclaims persistentvolumes", "get list watch | core | nodes",
        "patch update | core | nodes/status", "list watch | core | pods", EVENTS,
        "create delete get list patch update watch | storage.k8s.io | volumeattachments",
        f"{READ} | storage.k8s.io | csidrivers csinodes"),
    "clusterrole-aggregation-controller": (
        "escalate get list patch update watch | rbac.authorization.k8s.io | clusterroles",),
    "cronjob-controller": (
        "get list patch update watch | batch | cronjobs", "create delete get list patch update watch | batch | jobs",
        "update | batch | cronjobs/status cronjobs/finalizers", "delete list | core | pods", EVENTS),
    "daemon-set-controller": (
        f"{READ} | apps | daemonsets", "update | apps | daemonsets/status daemonsets/finalizers",
        "list watch | core | nodes", PODS,
        "create | core | pods/binding", HISTORY, EVENTS),
    "deployment-controller": (
        "get list update watch | apps | deployments", "update | apps | deployments/status deployments/finalizers",
        "create delete get list patch update watch | apps | replicasets", "get list update watch | core | pods", EVENTS),
    "disruption-controller": (
        f"{READ} | apps | deployments replicasets statefulsets", f"{READ} | core | replicationcontrollers",
        f"{READ} | policy | poddisruptionbudgets", "update | policy | poddisruptionbudgets/status",
        "patch update | core | pods/status", f"{READ} | core | pods", "get | * | */scale", EVENTS),
    "endpoint-controller": (
        f"{READ} | core | pods services", "create delete get list update | core | endpoints",
        "create | core | endpoints/restricted", EVENTS),
    "endpointslice-controller": (
        f"{READ} | core | nodes pods services", "update | core | services/finalizers",
        "create delete get list update | discovery.k8s.io | endpointslices",
        "create | discovery.k8s.io | endpointslices/restricted", EVENTS),
    "endpointslicemirroring-controller": (
        f"{READ} | core | endpoints services", "update | core | services/finalizers endpoints/finalizers",
        "create delete get list update | discovery.k8s.io | endpointslices",
        "create | discovery.k8s.io | endpointslices/restricted", EVENTS),
    "expand-controller": (
        "get list patch update watch | core | persistentvolumes", "patch update | core | persistentvolumeclaims/status",
        f"{READ} | core | persistentvolumeclaims", f"{READ} | storage.k8s.io | storageclasses",
        "get | core | endpoints services secrets", EVENTS),
    "ephemeral-volume-controller": (
        "update | core | pods/finalizers", f"{READ} | core | pods", "create get list watch | core | persistentvolumeclaims",
        EVENTS),
    "generic-garbage-collector": ("delete get list patch update watch | * | *", EVENTS),
    "horizontal-pod-autoscaler": (
        f"{READ} | autoscaling | horizontalpodautoscalers", "update | autoscaling | horizontalpodautoscalers/status",
        "get update | * | */scale", "list | core | pods", "list | metrics.k8s.io | pods",
        "get list | custom.metrics.k8s.io | *",
        "get list | external.metrics.k8s.io | *", EVENTS),
    "job-controller": (
        "get list patch update watch | batch | jobs", "update | batch | jobs/status jobs/finalizers", PODS, EVENTS),
    "legacy-service-account-token-cleaner": ("get | core | configmaps | "
        "kube-apiserver-legacy-service-account-token-tracking", "delete patch | core | secrets"),
    "namespace-controller": (
        "delete get list watch | core | namespaces", "update | core | namespaces/finalize namespaces/status",
        "delete deletecollection get list | * | *"),
    "node-controller": (
        "delete get list patch update | core | nodes", "patch update | core | nodes/status",
        "patch update | core | pods/status",
        "delete get list | core | pods", "get list watch | coordination.k8s.io | leases", EVENTS),
    "persistent-volume-binder": (
        "create delete get list update watch | core | persistentvolumes", "update | core | persistentvolumes/status",
        "get list update watch | core | persistentvolumeclaims", "update | core | persistentvolumeclaims/status",
        "create delete get list watch | core | pods", f"{READ} | storage.k8s.io | storageclasses",
        "get list watch | core | nodes", EVENTS),
    "pod-garbage-collector": ("delete list watch | core | pods", "get list | core | nodes", "patch | core | pods/status"),
    "pv-protection-controller": ("get list update watch | core | persistentvolumes", EVENTS),
    "pvc-protection-controller": ("get list update watch | core | persistentvolumeclaims", f"{READ} | core | pods", EVENTS),
    "replicaset-controller": (
        "get list update watch | apps | replicasets", "update | apps | replicasets/status replicasets/finalizers",
        PODS, EVENTS),
    "replication-controller": (
        "get list update watch | core | replicationcontrollers",
        "update | core | replicationcontrollers/status replicationcontrollers/finalizers",
        PODS, EVENTS),
    "resourcequota-controller": ("list watch | * | *", "update | core | resourcequotas/status", EVENTS),
    "root-ca-cert-publisher": ("create update | core | configmaps", EVENTS),
    "route-controller": ("list watch | core | nodes", "patch | core | nodes/status", EVENTS),
    "service-account-controller": ("create | core | serviceaccounts", EVENTS),
    "service-controller": (
        f"{READ} | core | services", "patch update | core | services/status", "list watch | core | nodes", EVENTS),
    "service-cidrs-controller": (
        "get list patch update watch | networking.k8s.io | servicecidrs",
        "patch update | networking.k8s.io | servicecidrs/finalizers servicecidrs/status",
        f"{READ} | networking.k8s.io | ipaddresses", EVENTS),
    "statefulset-controller": (
        "list watch | core | pods", f"{READ} | apps | statefulsets",
        "update | apps | statefulsets/status statefulsets/finalizers",
        "create delete get patch update | core | pods",
        HISTORY, "create delete get list patch update watch | core | persistentvolumeclaims", EVENTS),
    "ttl-controller": ("list patch update watch | core | nodes", EVENTS),
    "ttl-after-finished-controller": ("delete get list watch | batch | jobs", EVENTS),
    "certificate-controller": (
        "delete get list watch | certificates.k8s.io | certificatesigningrequests",
        "update | certificates.k8s.io | certificatesigningrequests/approval certificatesigningrequests/status",
        "approve | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client-kubelet",
        "sign | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client "
            "kubernetes.io/kube-apiserver-client-kubelet "
        "kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown", "create | authorization.k8s.io | subjectaccessreviews",
        EVENTS),
}
CONTROLLERS: dict[str, tuple[str, ...]] = {f"system:controller:{name}": lines for name, lines in _ROLES.items()}
