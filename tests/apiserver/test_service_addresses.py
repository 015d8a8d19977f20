"""Cluster IPs and node ports: IPAddress objects, ServiceCIDRs, health check ports, and repair of what was left behind."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import pytest

from tests.apiserver.apiprocess import ApiServer

pytestmark = pytest.mark.etcd
SERVICES = "/api/v1/namespaces/default/services"
ADDRESSES, RANGES = "/apis/networking.k8s.io/v1/ipaddresses", "/apis/networking.k8s.io/v1/servicecidrs"
MERGE = "application/merge-patch+json"


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def test_an_address_is_an_object_while_its_service_is(api: ApiServer) -> None:
    made = api.call("POST", SERVICES, service("addressed")).body
    address = api.call("GET", f"{ADDRESSES}/{made['spec']['clusterIP']}").body
    assert address["spec"]["parentRef"] == {"group": "", "resource": "services", "namespace": "default", "name": "addressed"}
    assert address["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"] == "IPv4"
    assert "services/default/addressed" in api.kubectl("get", "ipaddresses").stdout
    assert int(made["spec"]["clusterIP"].split(".")[2]) >= 1, "the first 256 are for those who name their address"
    api.call("DELETE", f"{SERVICES}/addressed")
    assert api.call("GET", f"{ADDRESSES}/{made['spec']['clusterIP']}").code == 404


def test_what_is_there_from_the_beginning(api: ApiServer) -> None:
    assert api.call("GET", f"{RANGES}/kubernetes").body["spec"]["cidrs"] == ["10.96.0.0/16"]
    assert api.call("GET", f"{ADDRESSES}/10.96.0.1").body["spec"]["parentRef"]["name"] == "kubernetes"
    classes = {item["metadata"]["name"]: item["value"] for item in
               api.call("GET", "/apis/scheduling.k8s.io/v1/priorityclasses").body["items"]}
    assert classes["system-node-critical"] == 2_000_001_000
    assert classes["system-cluster-critical"] == 2_000_000_000


def test_a_service_cidr_adds_addresses(api: ApiServer) -> None:
    outside = service("outside", clusterIP="10.201.0.9")
    assert "not in the valid range" in api.call("POST", SERVICES, outside).body["message"]
    made = api.call("POST", RANGES, {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.201.0.0/24"]}})
    assert made.body["status"]["conditions"][0]["type"] == "Ready"
    assert api.call("POST", SERVICES, outside).body["spec"]["clusterIP"] == "10.201.0.9"
    assert api.call("POST", SERVICES, {**outside, "metadata": {"name": "second"}}).code == 422
    assert api.call("PATCH", f"{RANGES}/more", {"spec": {"cidrs": ["10.202.0.0/24"]}}, content=MERGE).code == 422
    api.call("DELETE", f"{SERVICES}/outside")
    api.call("DELETE", f"{RANGES}/more")


def test_an_address_somebody_else_holds_is_not_given_out(api: ApiServer) -> None:
    held = {"metadata": {"name": "10.96.77.77"}, "spec": {"parentRef": {"resource": "gateways", "group": "x.io", "name": "g"}}}
    assert api.call("POST", ADDRESSES, held).code == 201
    assert "already allocated" in api.call("POST", SERVICES, service("late", clusterIP="10.96.77.77")).body["message"]
    api.call("DELETE", f"{ADDRESSES}/10.96.77.77")


def test_health_check_ports(api: ApiServer) -> None:
    local = service("balanced", type="LoadBalancer", externalTrafficPolicy="Local")
    spec = api.call("POST", SERVICES, local).body["spec"]
    port = spec["healthCheckNodePort"]
    assert 30000 <= port <= 32767
    assert port != spec["ports"][0]["nodePort"]
    path = f"{SERVICES}/balanced"
    again = api.call("PUT", path, {**local, "metadata": {"name": "balanced"}}).body["spec"]
    assert again["healthCheckNodePort"] == port
    assert api.call("PATCH", path, {"spec": {"healthCheckNodePort": port + 1}}, content=MERGE).code == 422
    wide = api.call("PATCH", path, {"spec": {"externalTrafficPolicy": "Cluster"}}, content=MERGE).body["spec"]
    assert "healthCheckNodePort" not in wide
    other = service("other", type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=port)
    assert api.call("POST", SERVICES, other).body["spec"]["healthCheckNodePort"] == port, "the port is free again"
    refused = api.call("POST", SERVICES, service("wrong", healthCheckNodePort=port + 1))
    assert "may only be set when" in refused.body["message"]
    for name in ("balanced", "other"):
        api.call("DELETE", f"{SERVICES}/{name}")


def test_many_at_once_get_different_ones(api: ApiServer) -> None:
    def make(number: int) -> tuple[str, int]:
        spec = api.call("POST", SERVICES, service(f"many-{number}", type="NodePort")).body["spec"]
        return spec["clusterIP"], spec["ports"][0]["nodePort"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(make, range(40)))
        assert len({address for address, _ in found}) == len({port for _, port in found}) == 40
        list(pool.map(lambda number: api.call("DELETE", f"{SERVICES}/many-{number}"), range(40)))
    held = {item["metadata"]["name"] for item in api.call("GET", ADDRESSES).body["items"]}
    assert not held & {address for address, _ in found}
