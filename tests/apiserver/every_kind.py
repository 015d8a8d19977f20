"""The least object of each kind that the API server accepts, without name or namespace: what every kind's tests begin with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from minik8s.apiserver.kinds.catalogue import KINDS, Kind

Object = dict[str, Any]
TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
RUN_ONCE = {"spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}
SELECTOR = {"matchLabels": {"app": "a"}}
WORKLOAD = {"selector": SELECTOR, "template": TEMPLATE}
ROLE = {"apiGroup": "rbac.authorization.k8s.io", "name": "view"}
HOOK = {"name": "a.example.com", "clientConfig": {"url": "https://127.0.0.1:1/"}, "sideEffects": "None",
        "admissionReviewVersions": ["v1"]}
SCALED = {"scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}, "maxReplicas": 3}
VOLUME = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}
FLOW_RULE = {"subjects": [{"kind": "User", "user": {"name": "u"}}],
             "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}]}
CSR = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlHY01GQUNBUUF3SFRFYk1Ca0dBMVVFQXd3U2MzbHpkR1Z0T201dlpHVTZibTlrWlMxNE1Db3dCUVlESzJWdwpBeUVBZ3lDbEdYZll3NHlvcEpKOFp3MzFnaDVFbDJHVVhoWHA3N0pxRlFuU01PcWdBREFGQmdNclpYQURRUUR0CjNpRXFhVEFoM0thRndZV21WY3N3UWVDZkpaeWhwSmFGclM4dTBwVVRBOXd3ak15L2g4b3ZtamFydzQ1SkJoYm8KMEV0QUt6V0F3bDFBVC95VmVEY0gKLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg=="  # noqa: E501
OBJECTS: dict[str, Object] = {
    "configmaps": {"data": {"k": "v"}},
    "endpoints": {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]},
    "events": {"involvedObject": {"kind": "Pod", "name": "p"}, "reason": "R", "message": "m", "type": "Normal"},
    "limitranges": {"spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}},
    "namespaces": {}, "nodes": {},
    "persistentvolumeclaims": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
    "persistentvolumes": {"spec": VOLUME},
    "pods": {"spec": TEMPLATE["spec"]},
    "podtemplates": {"template": TEMPLATE},
    "replicationcontrollers": {"spec": {"selector": {"app": "a"}, "template": TEMPLATE}},
    "resourcequotas": {"spec": {"hard": {"pods": "10"}}},
    "secrets": {"data": {"k": "dg=="}}, "serviceaccounts": {},
    "services": {"spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]}},
    "daemonsets": {"spec": WORKLOAD}, "deployments": {"spec": WORKLOAD}, "replicasets": {"spec": WORKLOAD},
    "statefulsets": {"spec": {**WORKLOAD, "serviceName": "s"}},
    "controllerrevisions": {"revision": 1, "data": {"a": 1}},
    "jobs": {"spec": {"template": RUN_ONCE}},
    "cronjobs": {"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": RUN_ONCE}}}},
    "horizontalpodautoscalers": {"spec": SCALED},
    "leases": {"spec": {"holderIdentity": "h", "leaseDurationSeconds": 40}},
    "endpointslices": {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]},
    "events.k8s.io": {"regarding": {"kind": "Pod", "name": "p"}, "reason": "R", "note": "m", "type": "Normal", "action": "A",
                      "eventTime": "2026-11-21T00:00:00.000000Z", "reportingController": "c.io/x", "reportingInstance": "i"},
    "ingresses": {"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}},
    "ingressclasses": {"spec": {"controller": "example.com/c"}},
    "networkpolicies": {"spec": {"podSelector": {}}},
    "ipaddresses": {"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "s"}}},
    "servicecidrs": {"spec": {"cidrs": ["10.200.0.0/24"]}},
    "poddisruptionbudgets": {"spec": {"minAvailable": 1, "selector": SELECTOR}},
    "clusterroles": {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
    "clusterrolebindings": {"roleRef": {**ROLE, "kind": "ClusterRole"}, "subjects": [{"kind": "User", "name": "u"}]},
    "roles": {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
    "rolebindings": {"roleRef": {**ROLE, "kind": "ClusterRole"}, "subjects": [{"kind": "User", "name": "u"}]},
    "priorityclasses": {"value": 100},
    "runtimeclasses": {"handler": "h"},
    "storageclasses": {"provisioner": "example.com/p"},
    "csidrivers": {"spec": {}}, "csinodes": {"spec": {"drivers": []}},
    "csistoragecapacities": {"storageClassName": "s"},
    "volumeattachments": {"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}},
    "certificatesigningrequests": {"spec": {"request": CSR, "signerName": "example.com/s", "usages": ["client auth"]}},
    "flowschemas": {"spec": {"priorityLevelConfiguration": {"name": "global-default"}, "rules": [FLOW_RULE]}},
    "prioritylevelconfigurations": {"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}},
    "mutatingwebhookconfigurations": {"webhooks": [{**HOOK, "failurePolicy": "Ignore"}]},
    "validatingwebhookconfigurations": {"webhooks": [{**HOOK, "failurePolicy": "Ignore"}]},
}
NAMES = {"ipaddresses": "fd00::{}", "customresourcedefinitions": "things{}.example.com"}
CREATED_BY_OTHERS = {"customresourcedefinitions"}
TESTED = [kind for kind in KINDS if kind.resource.plural not in CREATED_BY_OTHERS]


WRITTEN_TO = {"FlowSchema", "PriorityLevelConfiguration", "ResourceQuota", "CertificateSigningRequest"}  # by the server itself


class Tested(Protocol):
    """What a test has of a kind."""

    kind: Kind

    def end(self) -> None:
        """Its objects go, and the next ones have other names."""


T = TypeVar("T", bound=Tested)


def undisturbed(test: Callable[[T], None]) -> Callable[[T], None]:
    """Again with new objects where the server itself may have written to one in the middle: a status, a condition."""
    @functools.wraps(test)
    def run(**given: T) -> None:
        (one,) = given.values()
        for _ in range(4 if one.kind.resource.kind in WRITTEN_TO else 0):
            try:
                return test(one)
            except AssertionError:
                one.end()
        return test(one)

    return run


def name_of(plural: str, number: int) -> str:
    """A name that the kind allows."""
    return NAMES.get(plural, "every-{}").format(number)
