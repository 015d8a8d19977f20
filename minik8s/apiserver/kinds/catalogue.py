"""What this API serves: each kind's names, verbs, subresources, place in etcd and selectable fields.

Data only; the resources themselves are nodecore's. Adding a kind begins here.
Must not know: HTTP, how objects are stored. Read next: `request/routes.py`, `discovery.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from nodecore.kube import resource as r
from nodecore.kube.resource import Resource

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Sub:
    """A subresource: the kind it speaks, where that is not the parent's, and its verbs."""

    name: str
    verbs: tuple[str, ...]
    kind: str = ""
    group: str = ""
    version: str = ""


STATUS = Sub("status", ("get", "patch", "update"))
SCALE = Sub("scale", ("get", "patch", "update"), "Scale", "autoscaling", "v1")


@dataclass(frozen=True, slots=True)
class Kind:
    """One served kind; `fields` are the field selectors beside metadata.name and metadata.namespace.

    Objects of a `passing` kind have a limited life.
    """

    resource: Resource
    singular: str
    prefix: str
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[Sub, ...] = ()
    fields: tuple[str, ...] = ()
    passing: bool = False

    @property
    def has_status(self) -> bool:
        """Whether `status` is written through its own subresource."""
        return STATUS in self.subresources

    @property
    def gvk(self) -> tuple[str, str, str]:
        """Group, version and kind."""
        return (self.resource.group, self.resource.version, self.resource.kind)

    def sub(self, name: str) -> Sub | None:
        """The subresource of that name."""
        return next((sub for sub in self.subresources if sub.name == name), None)

    def key(self, namespace: str, name: str) -> str:
        """Where an object is in etcd."""
        return f"{self.prefix}{namespace}/{name}" if self.resource.namespaced else f"{self.prefix}{name}"

    def folder(self, namespace: str = "") -> str:
        """What the keys of all objects (of a namespace) begin with."""
        return f"{self.prefix}{namespace}/" if namespace and self.resource.namespaced else self.prefix


INVOLVED = tuple(f"involvedObject.{name}" for name in
                 ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"))
POD_SUBS = (
    Sub("attach", ("create", "get"), "PodAttachOptions"), Sub("binding", ("create",), "Binding"),
    Sub("eviction", ("create",), "Eviction", "policy", "v1"),
    Sub("exec", ("create", "get"), "PodExecOptions"), Sub("log", ("get",)),
    Sub("portforward", ("create", "get"), "PodPortForwardOptions"), STATUS,
)
POD_FIELDS = ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
              "status.phase", "status.podIP", "status.nominatedNodeName")

KINDS: tuple[Kind, ...] = (
    Kind(r.CONFIG_MAPS, "configmap", "/registry/configmaps/", ("cm",)),
    Kind(r.ENDPOINTS, "endpoints", "/registry/services/endpoints/", ("ep",)),
    Kind(r.EVENTS, "event", "/registry/events/", ("ev",),
         fields=(*INVOLVED, "reason", "reportingComponent", "source", "type"), passing=True),
    Kind(r.NAMESPACES, "namespace", "/registry/namespaces/", ("ns",), (), (Sub("finalize", ("update",)), STATUS),
         fields=("status.phase",)),
    Kind(r.NODES, "node", "/registry/minions/", ("no",), (), (STATUS,), fields=("spec.unschedulable",)),
    Kind(r.PODS, "pod", "/registry/pods/", ("po",), ("all",), POD_SUBS, POD_FIELDS),
    Kind(r.SECRETS, "secret", "/registry/secrets/", fields=("type",)),
    Kind(r.SERVICE_ACCOUNTS, "serviceaccount", "/registry/serviceaccounts/", ("sa",)),
    Kind(r.SERVICES, "service", "/registry/services/specs/", ("svc",), ("all",), (STATUS,), ("spec.clusterIP", "spec.type")),
    Kind(r.DAEMON_SETS, "daemonset", "/registry/daemonsets/", ("ds",), ("all",), (STATUS,)),
    Kind(r.DEPLOYMENTS, "deployment", "/registry/deployments/", ("deploy",), ("all",), (SCALE, STATUS)),
    Kind(r.REPLICA_SETS, "replicaset", "/registry/replicasets/", ("rs",), ("all",), (SCALE, STATUS), ("status.replicas",)),
    Kind(r.CONTROLLER_REVISIONS, "controllerrevision", "/registry/controllerrevisions/"),
    Kind(r.LEASES, "lease", "/registry/leases/"),
    Kind(r.ENDPOINT_SLICES, "endpointslice", "/registry/endpointslices/"),
    Kind(r.CLUSTER_ROLES, "clusterrole", "/registry/clusterroles/"),
    Kind(r.CLUSTER_ROLE_BINDINGS, "clusterrolebinding", "/registry/clusterrolebindings/"),
    Kind(r.ROLES, "role", "/registry/roles/"),
    Kind(r.ROLE_BINDINGS, "rolebinding", "/registry/rolebindings/"),
)


@dataclass(frozen=True, slots=True)
class Review:
    """A question put to the API with POST: answered, never stored."""

    resource: Resource
    singular: str


REVIEWS: tuple[Review, ...] = (
    Review(Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False),
           "selfsubjectreview"),
    Review(Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False),
           "selfsubjectaccessreview"),
    Review(Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False),
           "subjectaccessreview"),
)
EMPTY_GROUPS: tuple[tuple[str, str], ...] = (("policy", "v1"),)

BY_RESOURCE = {(kind.resource.group, kind.resource.version, kind.resource.plural): kind for kind in KINDS}
REVIEW_BY_RESOURCE = {(each.resource.group, each.resource.version, each.resource.plural): each for each in REVIEWS}
BY_PLURAL = {kind.resource.plural: kind for kind in KINDS}
