"""What an operator asks of the proxy: who talks to whom and how much, are the rules in force, are dead connections gone."""

from __future__ import annotations

import urllib.request

import pytest
from conftest import Agent, settled
from proxy_api import Api
from proxy_net import FAR_POD, NODE, PODS, World, endpoints, eventually, service, sh

pytestmark = pytest.mark.kernel
A, B, C = PODS.values()
VIP = "10.96.3.1"
TARGETS = (("t", "TCP", 8080), ("u", "UDP", 8080), ("s", "SCTP", 9999))
WEB = service("web", VIP, ("t", "TCP", 80, 30095), ("u", "UDP", 80, 30095), ("s", "SCTP", 132, 0), type="NodePort",
              externalIPs=["10.96.3.9"])


def web(*members: str | dict) -> dict:
    return endpoints("web", *members, ports=TARGETS)


def get(net: World, path: str) -> str:
    with net.spaces["node"].enter():
        return urllib.request.urlopen(f"http://127.0.0.1:10249{path}", timeout=5).read().decode()


def metric(net: World, name: str, **labels: str) -> float:
    """The sum over all series with these labels."""
    lines = [line for line in get(net, "/metrics").splitlines() if line.startswith(f"kubeproxy_{name}")
             and all(f'{key}="{value}"' in line for key, value in labels.items())]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def start(agent: Agent, *flags: str) -> None:
    agent.flags = flags
    agent.start()
    settled(agent.net, VIP, 80)


def test_counts_packets_and_bytes(net: World, api: Api, agent: Agent) -> None:
    api.put(web(B, FAR_POD), WEB)
    start(agent, "--traffic-metrics")
    for caller, address, port in (("pod-a", VIP, 80), ("outside", NODE, 30095), ("node", VIP, 80), ("outside", "10.96.3.9", 80)):
        way = f"tcp {port}" if address == NODE else f"{address} tcp {port}"
        answered = [net.ask(caller, address, port)[0] for _ in range(10)]
        for direction in ("to", "from"):  # SYN, ACK, FIN, ...: the last of them may be on their way yet
            eventually(lambda way=way, direction=direction: metric(
                net, "service_packets_total", service="web", way=way, direction=direction) >= 3 * 10, what=f"{caller} {way}")
        for who, place in (("pod-b", f"{B}:8080"), ("far", f"{FAR_POD}:8080")):
            assert bool(metric(net, "service_bytes_total", way=way, endpoint=place)) is (who in answered)
    for _ in range(5):
        assert net.ask("pod-a", VIP, 80, "udp")[0] in ("pod-b", "far")
    for direction in ("to", "from"):
        assert metric(net, "service_packets_total", way=f"{VIP} udp 80", direction=direction) == 5
    sh(net.spaces["node"], "nft delete table ip kube-proxy")
    eventually(lambda: "kube-proxy" in agent.table())
    net.ask("pod-a", VIP, 80, "udp")
    assert metric(net, "service_packets_total", way=f"{VIP} udp 80", direction="to") == 6  # no count is lost
