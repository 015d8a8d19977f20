"""What this API serves, a row a kind; and what it refuses, by name.

Data only. Adding a kind is a row here (and, where its schema does not say it all, rows in `defaults.py` and `rules.py`).
What an agent speaks of has its name in `nodecore/kube/resource.py`, all else is named here.
Must not know: HTTP, how objects are stored. Read next: `kind.py`, `request/routes.py`, `discovery.py`.
"""

from __future__ import annotations

from dataclasses import replace

from minik8s.apiserver.kinds.kind import SCALE, STATUS, VERBS, Kind, Review, Sub
from nodecore.kube import resource as r
from nodecore.kube.resource import Resource

__all__ = ["BINDINGS", "BY_PLURAL", "BY_RESOURCE", "COMPONENTS", "EMPTY_GROUPS", "KINDS", "REFUSED", "REVIEWS",
           "REVIEW_BY_RESOURCE", "SCALE", "STATUS", "VERBS", "Kind", "Review", "Sub"]

ADMISSION, EXTENSIONS, AUTOSCALING = "admissionregistration.k8s.io", "apiextensions.k8s.io", "autoscaling"
AUTHENTICATION, AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"
NETWORK, STORAGE, FLOW = "networking.k8s.io", "storage.k8s.io", "flowcontrol.apiserver.k8s.io"
UNHEEDED_FLOWS = "stored, not acted upon: this server gives out its seats by --max-requests-inflight and its like alone"
INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
ALL, API = ("all",), ("api-extensions",)
WHOLE = (SCALE, STATUS)
def _proxy(kind: str) -> Sub:
    return Sub("proxy", ("create", "delete", "get", "patch", "update"), kind)


POD_SUBS = (
    Sub("attach", ("create", "get"), "PodAttachOptions"), Sub("binding", ("create",), "Binding"),
    Sub("ephemeralcontainers", ("get", "patch", "update")), Sub("eviction", ("create",), "Eviction", "policy", "v1"),
    Sub("exec", ("create", "get"), "PodExecOptions"), Sub("log", ("get",)),
    Sub("portforward", ("create", "get"), "PodPortForwardOptions"), _proxy("PodProxyOptions"), STATUS,
)
POD_FIELDS = ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
              "status.phase", "status.podIP", "status.nominatedNodeName")


def _row(
    resource: Resource, *short: str, prefix: str = "", categories: tuple[str, ...] = (), subs: tuple[Sub, ...] = (),
    fields: tuple[str, ...] = (), passing: bool = False, counted: bool = False, kept: Kind | None = None,
    warning: str = "", unheeded: str = "",
) -> Kind:
    """One kind; where objects are in etcd is told by `prefix` for those that are not under their plural."""
    folder = f"/registry/{prefix or resource.plural}/"
    return Kind(resource, resource.kind.lower(), folder, short, categories, subs, fields, passing, counted, kept,
                warning, unheeded)


def _core(plural: str, kind: str, *, namespaced: bool = True) -> Resource:
    return Resource("", "v1", plural, kind, namespaced=namespaced)


def _v1(group: str, plural: str, kind: str) -> Resource:
    return Resource(group, "v1", plural, kind)


def _wide(group: str, plural: str, kind: str) -> Resource:
    return Resource(group, "v1", plural, kind, namespaced=False)


EVENT = _row(r.EVENTS, "ev", passing=True, fields=(
    *(f"involvedObject.{name}" for name in INVOLVED), "reason", "reportingComponent", "source", "type"))
AUTOSCALER = _row(Resource(AUTOSCALING, "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"), "hpa", categories=ALL,
                  subs=(STATUS,))
KINDS: tuple[Kind, ...] = (
    _row(r.CONFIG_MAPS, "cm"),
    _row(r.ENDPOINTS, "ep", prefix="services/endpoints",
         warning="v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    EVENT,
    _row(_core("limitranges", "LimitRange"), "limits"),
    _row(r.NAMESPACES, "ns", subs=(Sub("finalize", ("update",)), STATUS), fields=("status.phase",)),
    _row(r.NODES, "no", prefix="minions", subs=(_proxy("NodeProxyOptions"), STATUS), fields=("spec.unschedulable",)),
    _row(_core("persistentvolumeclaims", "PersistentVolumeClaim"), "pvc", subs=(STATUS,)),
    _row(_core("persistentvolumes", "PersistentVolume", namespaced=False), "pv", subs=(STATUS,)),
    _row(r.PODS, "po", categories=ALL, subs=POD_SUBS, fields=POD_FIELDS),
    _row(_core("podtemplates", "PodTemplate"), counted=True),
    _row(_core("replicationcontrollers", "ReplicationController"), "rc", prefix="controllers", categories=ALL, subs=WHOLE,
         fields=("status.replicas",), counted=True),
    _row(_core("resourcequotas", "ResourceQuota"), "quota", subs=(STATUS,)),
    _row(r.SECRETS, fields=("type",)),
    _row(r.SERVICE_ACCOUNTS, "sa", subs=(Sub("token", ("create",), "TokenRequest", AUTHENTICATION, "v1"),)),
    _row(r.SERVICES, "svc", prefix="services/specs", categories=ALL, subs=(_proxy("ServiceProxyOptions"), STATUS),
         fields=("spec.clusterIP", "spec.type")),
    _row(r.DAEMON_SETS, "ds", categories=ALL, subs=(STATUS,), counted=True),
    _row(r.DEPLOYMENTS, "deploy", categories=ALL, subs=WHOLE, counted=True),
    _row(r.REPLICA_SETS, "rs", categories=ALL, subs=WHOLE, fields=("status.replicas",), counted=True),
    _row(_v1("apps", "statefulsets", "StatefulSet"), "sts", categories=ALL, subs=WHOLE, counted=True),
    _row(r.CONTROLLER_REVISIONS),
    _row(_v1("batch", "jobs", "Job"), categories=ALL, subs=(STATUS,), fields=("status.successful",), counted=True),
    _row(_v1("batch", "cronjobs", "CronJob"), "cj", categories=ALL, subs=(STATUS,), counted=True),
    AUTOSCALER,
    _row(_v1(AUTOSCALING, "horizontalpodautoscalers", "HorizontalPodAutoscaler"), "hpa", categories=ALL, subs=(STATUS,),
         kept=AUTOSCALER),
    _row(r.LEASES),
    _row(r.ENDPOINT_SLICES, counted=True),
    _row(_v1("events.k8s.io", "events", "Event"), "ev", passing=True, kept=EVENT, fields=(
        *(f"regarding.{name}" for name in INVOLVED), "reason", "reportingController", "type")),
    _row(_v1(NETWORK, "ingresses", "Ingress"), "ing", prefix="ingress", subs=(STATUS,), counted=True),
    _row(_wide(NETWORK, "ingressclasses", "IngressClass"), counted=True),
    _row(_v1(NETWORK, "networkpolicies", "NetworkPolicy"), "netpol", counted=True),
    _row(_wide(NETWORK, "ipaddresses", "IPAddress"), "ip"),
    _row(_wide(NETWORK, "servicecidrs", "ServiceCIDR"), subs=(STATUS,)),
    _row(_v1("policy", "poddisruptionbudgets", "PodDisruptionBudget"), "pdb", subs=(STATUS,), counted=True),
    _row(r.CLUSTER_ROLES),
    _row(r.CLUSTER_ROLE_BINDINGS),
    _row(r.ROLES),
    _row(r.ROLE_BINDINGS),
    _row(_wide("scheduling.k8s.io", "priorityclasses", "PriorityClass"), "pc", counted=True),
    _row(_wide("node.k8s.io", "runtimeclasses", "RuntimeClass")),
    _row(_wide(STORAGE, "storageclasses", "StorageClass"), "sc"),
    _row(_wide(STORAGE, "csidrivers", "CSIDriver")),
    _row(_wide(STORAGE, "csinodes", "CSINode")),
    _row(_v1(STORAGE, "csistoragecapacities", "CSIStorageCapacity")),
    _row(_wide(STORAGE, "volumeattachments", "VolumeAttachment"), subs=(STATUS,)),
    _row(_wide("certificates.k8s.io", "certificatesigningrequests", "CertificateSigningRequest"), "csr",
         subs=(Sub("approval", ("get", "patch", "update")), STATUS), fields=("spec.signerName",)),
    _row(_wide(FLOW, "flowschemas", "FlowSchema"), subs=(STATUS,), counted=True, unheeded=UNHEEDED_FLOWS),
    _row(_wide(FLOW, "prioritylevelconfigurations", "PriorityLevelConfiguration"), subs=(STATUS,), counted=True,
         unheeded=UNHEEDED_FLOWS),
    _row(_wide(ADMISSION, "mutatingwebhookconfigurations", "MutatingWebhookConfiguration"), categories=API, counted=True),
    _row(_wide(ADMISSION, "validatingwebhookconfigurations", "ValidatingWebhookConfiguration"), categories=API, counted=True),
    _row(_wide(EXTENSIONS, "customresourcedefinitions", "CustomResourceDefinition"), "crd", "crds",
         prefix=f"{EXTENSIONS}/customresourcedefinitions", categories=API, subs=(STATUS,), counted=True),
)

COMPONENTS = replace(_row(_core("componentstatuses", "ComponentStatus", namespaced=False), "cs",
                          warning="v1 ComponentStatus is deprecated in v1.19+"), verbs=("get", "list"))  # stored nowhere
BINDINGS = Review(_core("bindings", "Binding"), "binding")
REVIEWS: tuple[Review, ...] = (
    Review(_wide(AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview"), "selfsubjectreview"),
    Review(_wide(AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview"), "selfsubjectaccessreview"),
    Review(_wide(AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview"), "subjectaccessreview"),
    Review(_v1(AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview"), "localsubjectaccessreview"),
    Review(_wide(AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview"), "selfsubjectrulesreview"),
    Review(_wide(AUTHENTICATION, "tokenreviews", "TokenReview"), "tokenreview"),
)
EMPTY_GROUPS: tuple[tuple[str, str], ...] = ()

REFUSED: dict[tuple[str, str], str] = {  # by group and plural, "" for a whole group
    ("", "pods/resize"): "containers are not resized in place",
    (ADMISSION, "validatingadmissionpolicies"): "CEL is not evaluated here",
    (ADMISSION, "validatingadmissionpolicybindings"): "CEL is not evaluated here",
    (ADMISSION, "mutatingadmissionpolicies"): "CEL is not evaluated here",
    (ADMISSION, "mutatingadmissionpolicybindings"): "CEL is not evaluated here",
    ("apiregistration.k8s.io", ""): "no other API servers are aggregated",
    ("resource.k8s.io", ""): "resources are not allocated dynamically",
    ("storagemigration.k8s.io", ""): "stored objects are not migrated",
    ("internal.apiserver.k8s.io", ""): "storage versions are not published",
    ("metrics.k8s.io", ""): "no metrics server is aggregated",
}

BY_RESOURCE = {kind.place: kind for kind in (*KINDS, COMPONENTS)}
REVIEW_BY_RESOURCE = {(each.resource.group, each.resource.version, each.resource.plural): each for each in REVIEWS}
BY_PLURAL = {kind.resource.plural: kind for kind in reversed(KINDS)}
