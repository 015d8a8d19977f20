"""What each kind holds its objects to: bad ones refused by field, changes that may not be, defaults filled in."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from minik8s.apiserver.kinds import defaults, initial, validate
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.request.status import Refused
from tests.apiserver.every_kind import CSR, OBJECTS, TEMPLATE

Object = dict[str, Any]


def made(plural: str, **changes: Any) -> Object:
    kind = BY_PLURAL[plural]
    obj: Object = {"kind": kind.resource.kind, "apiVersion": kind.resource.api_version,
                   "metadata": {"name": "a", "uid": "u-1", "namespace": "n", "creationTimestamp": "2026-11-21T00:00:00Z"},
                   **copy.deepcopy(OBJECTS[plural])}
    for path, value in copy.deepcopy(changes).items():
        *steps, last = path.split("__")
        holder = obj
        for step in steps:
            holder = holder[int(step)] if step.isdecimal() else holder.setdefault(step, {})  # type: ignore[index]
        holder[last] = value
    initial.prepare(kind, obj)
    defaults.default(kind.resource.kind, obj)
    return obj


def told(plural: str, obj: Object, old: Object | None = None) -> str:
    kind = BY_PLURAL[plural]
    try:
        validate.check_change(kind, old, obj) if old else validate.check_new(kind, obj)
    except Refused as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize(("plural", "changes", "words"), [
    ("statefulsets", {"spec__selector": {"matchLabels": {"b": "c"}}}, "does not match template"),
    ("statefulsets", {"spec__podManagementPolicy": "Sideways"}, "spec.podManagementPolicy: Unsupported value"),
    ("replicationcontrollers", {"spec__selector": {"b": "c"}}, "does not match template"),
    ("jobs", {"spec__template": TEMPLATE}, 'valid values: "OnFailure", "Never"'),
    ("jobs", {"spec__parallelism": -1}, "spec.parallelism"),
    ("cronjobs", {"spec__schedule": "* * * *"}, "expected exactly 5 fields, found 4"),
    ("cronjobs", {"spec__schedule": "61 * * * *"}, "minute"),
    ("cronjobs", {"spec__schedule": "TZ=UTC * * * * *"}, "use timeZone field instead"),
    ("cronjobs", {"spec__concurrencyPolicy": "Perhaps"}, "spec.concurrencyPolicy"),
    ("horizontalpodautoscalers", {"spec__maxReplicas": 0}, "must be greater than 0"),
    ("horizontalpodautoscalers", {"spec__minReplicas": 5}, "greater than or equal to `minReplicas`"),
    ("poddisruptionbudgets", {"spec__maxUnavailable": 1}, "cannot be both set"),
    ("poddisruptionbudgets", {"spec__minAvailable": "x"}, "spec.minAvailable"),
    ("networkpolicies", {"spec__ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]},
     "strict subset"),
    ("networkpolicies", {"spec__ingress": [{"from": [{}]}]}, "must specify a peer"),
    ("ingresses", {"spec": {}}, "either `defaultBackend` or `rules`"),
    ("ingresses", {"spec__rules": [{"http": {"paths": [{"path": "x", "pathType": "Exact", "backend": {}}]}}]}, "absolute path"),
    ("servicecidrs", {"spec__cidrs": ["10.0.0.0/24", "10.1.0.0/24"]}, "one value for each IP family"),
    ("servicecidrs", {"spec__cidrs": ["10.0.0.1/24"]}, "valid CIDR"),
    ("ipaddresses", {}, "metadata.name: Invalid value"),
    ("persistentvolumeclaims", {"spec__accessModes": ["Often"]}, "spec.accessModes[0]"),
    ("persistentvolumeclaims", {"spec__resources": {"requests": {"cpu": "1"}}}, "requests[storage]"),
    ("persistentvolumes", {"spec__nfs": {"server": "s", "path": "/"}}, "may not specify more than 1 volume type"),
    ("secrets", {"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}, "data[tls.key]: Required value"),
    ("secrets", {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "eA=="}}, "invalid JSON"),
    ("secrets", {"type": "kubernetes.io/basic-auth"}, "data[username]: Required value"),
    ("secrets", {"type": "kubernetes.io/service-account-token"}, "annotations[kubernetes.io/service-account.name]: Required"),
    ("storageclasses", {"provisioner": ""}, "provisioner: Required"),
    ("priorityclasses", {"metadata__name": "system-mine"}, "reserved for system use only"),
    ("priorityclasses", {"value": 2_000_000_000}, "maximum allowed value"),
    ("roles", {"rules": [{"resources": ["pods"], "apiGroups": [""]}]}, "rules[0].verbs: Required"),
    ("roles", {"rules": [{"nonResourceURLs": ["/x"], "verbs": ["get"]}]}, "namespaced rules cannot apply"),
    ("clusterrolebindings", {"roleRef__kind": "Role"}, 'supported values: "ClusterRole"'),
    ("clusterrolebindings", {"subjects": [{"kind": "ServiceAccount", "name": "s"}]}, "subjects[0].namespace"),
    ("statefulsets", {"spec__template__spec__containers__0__volumeMounts": [{"name": "d", "mountPath": "/d"}]},
     'volumeMounts[0].name: Not found: "d"'),
    ("certificatesigningrequests", {"spec__request": "AAAA"}, "PEM block type must be CERTIFICATE REQUEST"),
    ("certificatesigningrequests", {"spec__request": CSR[:300]}, "PEM block type must be CERTIFICATE REQUEST"),
    ("certificatesigningrequests", {"spec__signerName": "me"}, "fully qualified domain and path"),
    ("mutatingwebhookconfigurations", {"webhooks__0__name": "short"}, "at least three segments"),
    ("mutatingwebhookconfigurations", {"webhooks__0__matchConditions": [{"name": "a"}]}, "CEL is not evaluated"),
    ("services", {"spec__externalIPs": ["127.0.0.1"]}, "spec.externalIPs[0]: Invalid value"),
    ("services", {"spec__externalIPs": ["192.0.2.1", "0.0.0.0"]}, "may not be unspecified"),
    ("endpoints", {"subsets__0__addresses": [{"ip": "169.254.169.254"}]}, "link-local range"),
    ("endpointslices", {"endpoints": [{"addresses": ["::ffff:127.0.0.1"]}], "addressType": "IPv6"}, "loopback range"),
    ("endpointslices", {"endpoints": [{"addresses": ["224.0.0.1"]}]}, "multicast range"),
])
def test_a_bad_object_is_refused_by_its_field(plural: str, changes: Object, words: str) -> None:
    assert words in told(plural, made(plural, **changes))


@pytest.mark.parametrize(("plural", "changes"), [
    ("statefulsets", {"spec__template__spec__containers__0__volumeMounts": [{"name": "d", "mountPath": "/d"}],
                      "spec__volumeClaimTemplates": [{"metadata": {"name": "d"}, **OBJECTS["persistentvolumeclaims"]}]}),
    ("rolebindings", {"subjects": [{"kind": "ServiceAccount", "name": "s"}]}),
    ("secrets", {"type": "kubernetes.io/basic-auth", "data": {"password": "eA=="}}), ("secrets", {"type": "example.com/any"}),
    ("secrets", {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}),
    ("secrets", {"type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}}),
    ("endpoints", {"subsets__0__addresses": [{"ip": "127.0.0.1"}],
                   "metadata__name": "kubernetes", "metadata__namespace": "default"}),
])
def test_what_is_sound_though_it_may_look_odd(plural: str, changes: Object) -> None:
    assert told(plural, made(plural, **changes)) == ""


@pytest.mark.parametrize("text", ["*/5 * * * *", "0 0 1 jan mon-fri", "@daily", "1,2,3-9/2 * ? * 7", "@every 1h30m"])
def test_schedules_of_all_sorts(text: str) -> None:
    assert told("cronjobs", made("cronjobs", spec__schedule=text)) == ""


@pytest.mark.parametrize(("plural", "changes", "words"), [
    ("statefulsets", {"spec__serviceName": "other"}, "updates to statefulset spec for fields other than"),
    ("statefulsets", {"spec__replicas": 4}, ""),
    ("jobs", {"spec__template": TEMPLATE}, "field is immutable"),
    ("jobs", {"spec__parallelism": 4, "spec__completions": 1}, ""),
    ("rolebindings", {"roleRef__name": "other"}, "cannot change roleRef"),
    ("persistentvolumeclaims", {"spec__resources__requests__storage": "2Gi"}, ""),
    ("persistentvolumeclaims", {"spec__resources__requests__storage": "1Mi"}, "can not be less"),
    ("persistentvolumeclaims", {"spec__accessModes": ["ReadWriteMany"]}, "spec is immutable after creation"),
    ("persistentvolumes", {"spec__hostPath__path": "/y"}, "immutable after creation"),
    ("storageclasses", {"parameters": {"a": "b"}}, "immutable"),
    ("priorityclasses", {"value": 7}, "immutable"),
    ("certificatesigningrequests", {"spec__signerName": "a.b/c"}, "immutable"),
])
def test_what_may_change_and_what_may_not(plural: str, changes: Object, words: str) -> None:
    found = told(plural, made(plural, **changes), made(plural))
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize(("plural", "changes", "expected"), [
    ("statefulsets", {}, {"replicas": 1, "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
                          "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                          "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}}),
    ("jobs", {}, {"parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": False,
                  "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}}),
    ("cronjobs", {}, {"concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1}),
    ("replicationcontrollers", {"spec": {"template": TEMPLATE}}, {"replicas": 1, "selector": {"app": "a"}}),
    ("horizontalpodautoscalers", {}, {"minReplicas": 1}),
    ("networkpolicies", {"spec__egress": [{}]}, {"policyTypes": ["Ingress", "Egress"]}),
    ("limitranges", {"spec__limits": [{"type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "1"}}]},
     {"limits": [{"type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}]}),
    ("persistentvolumeclaims", {}, {"volumeMode": "Filesystem"}),
])
def test_defaults(plural: str, changes: Object, expected: Object) -> None:
    obj = made(plural, **changes)
    assert {key: obj["spec"].get(key) for key in expected} == expected
    again = copy.deepcopy(obj)
    defaults.default(obj["kind"], again)
    assert again == obj
