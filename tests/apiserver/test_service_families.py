"""Address families of Services: what is chosen (pure), and what a dual-stack server over a real etcd makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from minik8s.apiserver.kinds import service_families, validate_service
from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer

FOUR, SIX, DUAL = ("IPv4",), ("IPv6",), ("IPv4", "IPv6")
SERVICES = "/api/v1/namespaces/default/services"
RANGES = ip_network("10.96.0.0/24"), ip_network("fd00:10:96::/112")


@pytest.mark.parametrize(("spec", "available", "policy", "families"), [
    ({}, FOUR, "SingleStack", FOUR),
    ({}, SIX, "SingleStack", SIX),
    ({}, DUAL, "SingleStack", FOUR),
    ({"ipFamilies": ["IPv6"]}, DUAL, "SingleStack", SIX),
    ({"ipFamilyPolicy": "PreferDualStack"}, FOUR, "PreferDualStack", FOUR),
    ({"ipFamilyPolicy": "PreferDualStack"}, DUAL, "PreferDualStack", DUAL),
    ({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}, DUAL, "RequireDualStack", ("IPv6", "IPv4")),
    ({"ipFamilies": ["IPv6", "IPv4"]}, DUAL, "RequireDualStack", ("IPv6", "IPv4")),
    ({"clusterIPs": ["fd00:10:96::9"]}, DUAL, "SingleStack", SIX),
    ({"clusterIP": "None", "selector": {"a": "b"}}, DUAL, "SingleStack", FOUR),
    ({"clusterIP": "None"}, FOUR, "RequireDualStack", DUAL),
])
def test_families_follow_from_what_is_asked_for(spec: dict[str, Any], available: Any, policy: str, families: Any) -> None:
    service: dict[str, Any] = {"spec": {"selector": {}, **spec}}
    assert not service_families.choose(service, available)
    assert (service["spec"]["ipFamilyPolicy"], tuple(service["spec"]["ipFamilies"])) == (policy, families)


@pytest.mark.parametrize(("spec", "available", "field", "words"), [
    ({"ipFamilies": ["IPv6"]}, FOUR, "spec.ipFamilies[0]", "not configured on this cluster"),
    ({"ipFamilyPolicy": "RequireDualStack"}, FOUR, "spec.ipFamilyPolicy", "not configured for dual-stack"),
    ({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}, DUAL, "spec.ipFamilyPolicy", "multiple ipFamilies"),
])
def test_what_the_cluster_has_not_is_named(spec: dict[str, Any], available: Any, field: str, words: str) -> None:
    cause, = service_families.choose({"spec": spec}, available)
    assert cause.field == field
    assert words in cause.message


@pytest.mark.parametrize(("spec", "field"), [
    ({"ipFamilyPolicy": "Both"}, "spec.ipFamilyPolicy"), ({"ipFamilies": ["IPv5"]}, "spec.ipFamilies[0]"),
    ({"ipFamilies": ["IPv4", "IPv4"]}, "spec.ipFamilies[1]"), ({"clusterIPs": ["10.0.0.1", "10.0.0.2"]}, "spec.clusterIPs"),
    ({"ipFamilies": ["IPv6"], "clusterIPs": ["10.0.0.1"]}, "spec.clusterIPs[0]"), ({"clusterIPs": ["x"]}, "spec.clusterIPs[0]"),
])
def test_malformed_fields_are_named(spec: dict[str, Any], field: str) -> None:
    assert field in {cause.field for cause in service_families.well_formed(spec)}


def test_the_first_family_is_for_life() -> None:
    old = {"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"]}}
    new = {"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.9", "ipFamilies": ["IPv6", "IPv4"]}}
    assert [cause.field for cause in validate_service.service_change(old, new)] == ["spec.ipFamilies[0]"]


@pytest.fixture(scope="module")
def dual() -> Iterator[ApiServer]:
    with EtcdServer.start() as etcd:
        server = ApiServer.start(etcd, "--service-cluster-ip-range", ",".join(map(str, RANGES)))
        try:
            yield server
        finally:
            server.close()


def body(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def held(dual: ApiServer) -> set[str]:
    """The addresses that are taken, as etcd has them."""
    import os
    import subprocess

    done = subprocess.run(
        ["etcdctl", "--endpoints", dual.etcd.endpoint, "get", "--prefix", "--keys-only", "/registry/ipaddresses/"],
        env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, check=True)
    return {line.rpartition("/")[2] for line in done.stdout.split()}


@pytest.mark.etcd
def test_a_service_gains_and_loses_its_second_address(dual: ApiServer) -> None:
    made = dual.call("POST", SERVICES, body("both", ipFamilyPolicy="PreferDualStack")).body["spec"]
    assert made["ipFamilies"] == ["IPv4", "IPv6"]
    assert made["clusterIP"] == made["clusterIPs"][0]
    for address, network in zip(made["clusterIPs"], RANGES, strict=True):
        assert ip_address(address) in network
    assert set(made["clusterIPs"]) <= held(dual)

    merge = "application/merge-patch+json"
    one = dual.call("PATCH", f"{SERVICES}/both", {"spec": {"ipFamilyPolicy": "SingleStack"}}, content=merge).body["spec"]
    assert (one["ipFamilies"], one["clusterIPs"]) == (["IPv4"], made["clusterIPs"][:1])
    assert made["clusterIPs"][1] not in held(dual)
    two = dual.call("PATCH", f"{SERVICES}/both", {"spec": {"ipFamilyPolicy": "RequireDualStack"}}, content=merge).body["spec"]
    assert two["ipFamilies"] == ["IPv4", "IPv6"]
    assert two["clusterIPs"][0] == made["clusterIPs"][0]
    dual.call("DELETE", f"{SERVICES}/both")
    assert not set(two["clusterIPs"]) & held(dual)


@pytest.mark.etcd
def test_addresses_of_ones_own_choice_and_their_mistakes(dual: ApiServer) -> None:
    wanted = ["fd00:10:96::99", "10.96.0.99"]
    made = dual.call("POST", SERVICES, body("own", clusterIPs=wanted)).body["spec"]
    assert (made["clusterIP"], made["clusterIPs"], made["ipFamilies"]) == (wanted[0], wanted, ["IPv6", "IPv4"])
    assert made["ipFamilyPolicy"] == "RequireDualStack"
    taken = dual.call("POST", SERVICES, body("taken", ipFamilyPolicy="PreferDualStack", clusterIPs=["10.96.0.7", wanted[0]]))
    assert taken.code == 422
    assert "already allocated" in taken.body["message"]
    assert "10.96.0.7" not in held(dual)
    assert dual.call("POST", SERVICES, body("out", clusterIP="fd00:99::1")).code == 422
    headless = dual.call("POST", SERVICES, body("headless", clusterIP="None")).body["spec"]
    assert (headless["clusterIPs"], headless["ipFamilies"]) == (["None"], ["IPv4", "IPv6"])
