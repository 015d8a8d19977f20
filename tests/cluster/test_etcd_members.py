"""A lab on three etcd members: any one of them may be gone, and the API, the agents and new leases work on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from minik8s.lab import control
from tests.labs import Lab, new_name, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

MEMBERS = ("node-1", "node-2", "node-3")
PKI = "/etc/kubernetes/pki"
SUBNETS = "/coreos.com/network/subnets/"


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(new_name(), tmp_path_factory.mktemp("labs"))
    try:
        made.up("--etcd-members", "3")
        yield made
    finally:
        made.down()


def etcdctl(lab: Lab, node: str, *argv: str) -> str:
    """etcdctl on a node that runs a member, speaking to that member."""
    address = f"https://192.168.77.1{node[-1]}:2379"
    files = ["--cacert", f"{PKI}/ca.crt", "--cert", f"{PKI}/flanneld-etcd-client.crt", "--key", f"{PKI}/flanneld-etcd-client.key"]
    return lab.exec(node, "env", "ETCDCTL_API=3", "etcdctl", "--endpoints", address, *files, *argv)


def lease(number: int) -> tuple[str, str]:
    """A peer that is none: its key and value."""
    value = {"PublicIP": f"192.168.77.{200 + number}", "PublicIPv6": None, "BackendType": "vxlan",
             "BackendData": {"VNI": 1, "VtepMAC": f"02:00:00:00:02:0{number}"}}
    return f"{SUBNETS}10.244.{200 + number}.0-24", json.dumps(value)


def written(lab: Lab, name: str) -> bool:
    """Whether a ConfigMap is there, made now or by a call before this one that did not hear of it."""
    return name in (lab.kubectl("get", "configmap", name, check=False) or lab.kubectl("create", "configmap", name))


def test_every_member_takes_part(trio: Lab) -> None:
    members = json.loads(etcdctl(trio, "node-1", "member", "list", "-w", "json"))["members"]
    assert sorted(member["name"] for member in members) == list(MEMBERS)


@pytest.mark.parametrize("lost", MEMBERS)
def test_with_one_member_gone_everything_works_on(trio: Lab, lost: str) -> None:
    """One of the three is the leader, and each agent is connected to one: so all cases are among these."""
    other = next(member for member in MEMBERS if member != lost)
    control.ask(trio.state.node(lost).path, {"do": "stop", "service": "etcd", "signal": 9})
    try:
        until(lambda: trio.services(lost)["etcd"]["pid"] == 0, what="a member that is gone")
        until(lambda: written(trio, f"without-{lost}"), what="a write through the API")
        key, value = lease(int(lost[-1]))
        etcdctl(trio, other, "put", key, value)
        subnet = key.removeprefix(SUBNETS).replace("-", "/")
        for node in MEMBERS:
            until(lambda node=node: subnet in trio.exec(node, "ip", "route"), seconds=25, what=f"a new peer's route on {node}")
        for node in MEMBERS:
            trio.kill_agent(node, "flanneld")
        until(lambda: trio.run("status", check=False).stdout.count("exited") == 1, what="all others up")
        trio.kubectl("create", "deployment", f"without-{lost}", "--image=lab.local/busybox:1", "--", "sleep", "1000")
        trio.kubectl("rollout", "status", f"deployment/without-{lost}", "--timeout=240s")
        etcdctl(trio, other, "del", key)
    finally:
        control.ask(trio.state.node(lost).path, {"do": "start", "service": "etcd"})
    until(lambda: trio.run("status", check=False).returncode == 0, what="the member back")
    until(lambda: etcdctl(trio, lost, "get", "--keys-only", "--prefix", SUBNETS), what="its answers")
