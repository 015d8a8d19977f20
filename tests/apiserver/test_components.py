"""ComponentStatuses: what `kubectl get componentstatuses` shows of etcd and of who leads the cluster, made up as it is asked."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from minik8s.apiserver.verbs.components import lapsed
from tests.apiserver.apiprocess import ApiServer

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
STATUSES = "/api/v1/componentstatuses"


@pytest.mark.parametrize(("spec", "why"), [
    ({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 15}, ""),
    ({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:00Z", "leaseDurationSeconds": 5},
     "a has not renewed its Lease since 2026-01-01T00:00:00Z"),
    ({"holderIdentity": "", "renewTime": "2026-01-01T00:00:00Z"}, "nobody holds its Lease"), ({}, "nobody holds its Lease"),
])
def test_a_component_works_while_its_lease_is_renewed(spec: Any, why: str) -> None:
    assert lapsed({"spec": spec}, datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)) == why


@pytest.mark.etcd
def test_component_statuses(api: ApiServer) -> None:
    renewed = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    made = api.call("POST", LEASES, {"metadata": {"name": "kube-scheduler"}, "spec": {
        "holderIdentity": "one", "leaseDurationSeconds": 3600, "renewTime": renewed}})
    assert made.code == 201
    done = api.kubectl("get", "cs")
    assert "Warning: v1 ComponentStatus is deprecated in v1.19+" in done.stderr
    head, controllers, scheduler, etcd = (line.split() for line in done.stdout.splitlines())
    assert head == ["NAME", "STATUS", "MESSAGE", "ERROR"]
    assert controllers[:2] == ["controller-manager", "Unhealthy"]
    assert (scheduler, etcd) == (["scheduler", "Healthy", "ok"], ["etcd-0", "Healthy", "ok"])
    assert api.kubectl("get", "componentstatus/etcd-0", "-o", "jsonpath={.conditions[0].type}").stdout == "Healthy"
    chosen = api.call("GET", f"{STATUSES}?fieldSelector=metadata.name%3Dscheduler").body
    assert (chosen["kind"], [item["metadata"]["name"] for item in chosen["items"]]) == ("ComponentStatusList", ["scheduler"])
    assert api.call("GET", f"{STATUSES}/unicorn").code == 404
    for method, path in (("POST", STATUSES), ("DELETE", STATUSES), ("PUT", f"{STATUSES}/etcd-0"), ("GET", f"{STATUSES}?watch=1"),
                         ("DELETE", f"{STATUSES}/etcd-0")):
        assert api.call(method, path, None if method == "GET" else {}).code == 405
    assert api.call("GET", STATUSES, accept="application/vnd.kubernetes.protobuf").headers["Content-Type"].endswith("protobuf")
    assert api.call("GET", STATUSES, user="nobody").code == 403
    api.call("DELETE", f"{LEASES}/kube-scheduler")
