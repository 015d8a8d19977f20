"""What a proxy ends for, to be started again: another --config, and a Node that has moved. What is programmed stays meanwhile.

And what it finds out only while it runs: that there is IPv6.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Agent
from proxy_api import Api
from proxy_net import GATEWAY, NODE, World, endpoints, eventually, in_family, of, service

from nodecore.net import Family

pytestmark = pytest.mark.kernel
VIP, NODE_PORT = "10.96.1.1", 30071
CONFIG = """apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: "::"
"""


def node(address: str) -> dict:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]}}


@pytest.fixture(autouse=True)
def web(api: Api) -> None:
    api.put(node(NODE), service("web", VIP, ("t", "TCP", 80, NODE_PORT), type="NodePort"),
            endpoints("web", "10.244.1.3", ports=(("t", "TCP", 8080),)))


def ended(agent: Agent) -> int:
    assert agent.process
    code = agent.process.wait(30)
    agent.process = None
    return code


def test_where_the_node_has_moved_it_begins_anew(net: World, api: Api, agent: Agent) -> None:
    agent.flags = ("--nodeport-addresses", "primary")
    agent.start()
    assert net.ask("outside", NODE, NODE_PORT)[0] == "pod-b"
    api.put({**node(NODE), "spec": {"taints": [{"key": "busy", "effect": "NoSchedule"}]}})  # nothing to us
    api.put(node(GATEWAY))
    assert ended(agent) == 1
    assert "Node node-1: its podCIDRs or addresses are others now" in agent.log.read_text()
    assert net.ask("outside", NODE, NODE_PORT)[0] == "pod-b"
    agent.start()
    assert net.ask("pod-a", GATEWAY, NODE_PORT)[0] == "pod-b"
    assert net.ask("outside", NODE, NODE_PORT)[0] == "refused"


@pytest.mark.slow
def test_another_configuration_is_taken_and_a_wrong_one_is_not(net: World, agent: Agent, tmp_path: Path) -> None:
    """On the way it listens in IPv6, for that is where the node is."""
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    agent.flags = ("--config", str(file))
    agent.start()
    said = net.spaces["node"].run(["curl", "-gsI", "http://[::1]:10256/livez"]).stdout
    assert said.startswith("HTTP/1.0 200 OK")
    assert net.spaces["node"].run(["curl", "-gs", "http://[::1]:10249/proxyMode", "http://127.0.0.1:10256/livez"]).stdout
    file.write_text(CONFIG + "oomScoreAdj: 5000\n")
    eventually(lambda: "--oom-score-adj: 5000 is not a number from -1000 to 1000; going on" in agent.log.read_text(), within=30)
    file.write_text("# as before\n" + CONFIG)
    (tmp_path / "next").write_text(CONFIG + "nodePortAddresses: [10.244.1.0/24]\n")
    (tmp_path / "next").rename(file)
    assert ended(agent) == 1
    assert f"--config: {file} says something else now" in agent.log.read_text()
    assert net.ask("outside", NODE, NODE_PORT)[0] == "pod-b"
    agent.start()
    assert net.ask("outside", NODE, NODE_PORT)[0] == "refused"


def test_ipv6_is_forwarded_only_where_it_is_used(net: World, api: Api, agent: Agent) -> None:
    """A machine that forwards listens to its routers no more: none is made to for Services that it does not have."""
    forwarding = ["sysctl", "-n", "net.ipv6.conf.all.forwarding"]
    node_space, vip = net.spaces["node"], of(Family.IPV6, VIP)
    node_space.run(["sysctl", "-w", "net.ipv6.conf.all.forwarding=0"])
    agent.flags = ("--cluster-cidr", "")
    agent.start()
    assert net.ask("pod-a", VIP, 80)[0] == "pod-b"
    assert node_space.run(forwarding).stdout == "0\n"
    api.put(*(in_family(Family.IPV6, item) for item in (
        service("six", VIP, ("t", "TCP", 80, 0)), endpoints("six", "10.244.1.3", ports=(("t", "TCP", 8080),)))))
    eventually(lambda: node_space.run(forwarding).stdout == "1\n")
    eventually(lambda: net.ask("pod-a", vip, 80, timeout=0.3)[0] == "pod-b", within=30)
