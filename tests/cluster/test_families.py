"""The whole demo in labs of IPv6 alone and of both families: pods, Services and NodePorts of each, and Services that change."""

from __future__ import annotations

import json

import pytest

from tests.labs import Lab, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.mark.parametrize("families", ["ipv6", "dual"])
def test_the_demo_works_in_every_family(fresh_lab: Lab, families: str) -> None:
    fresh_lab.up("--families", families, "--nodes", "2")
    shown = fresh_lab.run("demo").stdout
    assert "fd00:77::11 (node-1) -> fd00:77::12 (node-2)" in shown
    assert ("192.168.77.11 (node-1) -> 192.168.77.12 (node-2)" in shown) is (families == "dual")
    for pod in fresh_lab.get("pods", "-n", "demo")["items"]:
        versions = [":" in entry["ip"] for entry in pod["status"]["podIPs"]]
        assert versions == ([False, True] if families == "dual" else [True])
    addresses = [entry["address"] for entry in fresh_lab.get("node", "node-2")["status"]["addresses"]]
    assert addresses == ["192.168.77.12", "fd00:77::12", "node-2"][families == "ipv6":]
    assert fresh_lab.run("status").returncode == 0
    if families == "dual":
        a_service_gives_up_an_address_and_gets_another(fresh_lab)


def a_service_gives_up_an_address_and_gets_another(lab: Lab) -> None:
    def change(policy: str) -> list[str]:
        lab.kubectl("patch", "service", "web", "-n", "demo", "-p", json.dumps({"spec": {"ipFamilyPolicy": policy}}))
        return list(lab.get("service", "web", "-n", "demo")["spec"]["clusterIPs"])

    def slices() -> set[str]:
        found = lab.get("endpointslices", "-n", "demo", "-l", "kubernetes.io/service-name=web")["items"]
        return {item["addressType"] for item in found if item["endpoints"]}

    def answers(address: str) -> bool:
        host = f"[{address}]" if ":" in address else address
        return "pod=" in lab.exec("node-2", "busybox", "timeout", "3", "wget", "-q", "-O", "-", f"http://{host}/", check=False)

    four, six = lab.get("service", "web", "-n", "demo")["spec"]["clusterIPs"]
    assert change("SingleStack") == [four]
    until(lambda: slices() == {"IPv4"}, what="no IPv6 endpoints")
    until(lambda: not answers(six), what="no answer at the address given up")
    assert answers(four)
    assert change("RequireDualStack")[0] == four
    until(lambda: slices() == {"IPv4", "IPv6"}, what="IPv6 endpoints")
    until(lambda: answers(lab.get("service", "web", "-n", "demo")["spec"]["clusterIPs"][1]), what="an answer at the new address")


def test_kubectl_reaches_pods_of_an_ipv6_lab(fresh_lab: Lab) -> None:
    fresh_lab.up("--families", "ipv6", "--nodes", "1")
    fresh_lab.kubectl("create", "deployment", "one", "--image=lab.local/busybox:1", "--", "sh", "-c", "echo hello; sleep 1000")
    fresh_lab.kubectl("rollout", "status", "deployment/one", "--timeout=240s")
    until(lambda: fresh_lab.kubectl("logs", "deployment/one") == "hello\n", what="what it says")
    assert "fd00:10:244:" in fresh_lab.kubectl("exec", "deployment/one", "--", "ip", "-6", "addr")
    slices = fresh_lab.get("endpointslices", "kubernetes")
    assert (slices["addressType"], slices["endpoints"][0]["addresses"]) == ("IPv6", ["fd00:77::11"])
