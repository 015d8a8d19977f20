"""The conformance table. Each row asks as somebody, and says who may answer and which caller's address it must see."""

from __future__ import annotations

import pytest
from conftest import Agent, settled
from proxy_api import Api
from proxy_net import FAMILIES, FAR_POD, GATEWAY, NODE, OUTSIDE, PODS, World, balanced, endpoints, eventually, of, service

from nodecore.net import Family

pytestmark = pytest.mark.kernel
FLAGS = ("--cluster-cidr", "10.244.0.0/16,fd00::10:244:0:0/96")
A, B, C = PODS.values()
BOTH = ("tcp", "udp")


def ports(port: int, node_port: int = 0) -> tuple[tuple[str, str, int, int], ...]:
    return (("t", "TCP", port, node_port), ("u", "UDP", port, node_port))


TARGETS = (("t", "TCP", 8080), ("u", "UDP", 8080), ("h", "TCP", 9000), ("hu", "UDP", 9000))
SERVICES = (
    (service("near", "10.96.0.10", *ports(80)), ("10.244.1.3", "10.244.1.4")),
    (service("far", "10.96.0.11", *ports(80)), (FAR_POD,)),
    (service("both", "10.96.0.12", *ports(80, 30080), type="NodePort"), (B, FAR_POD)),
    (service("self", "10.96.0.13", *ports(80)), (A,)),
    (service("empty", "10.96.0.14", *ports(80, 30081), type="NodePort"), ()),
    (service("local", "10.96.0.15", *ports(80, 30082), type="NodePort", externalTrafficPolicy="Local"), (B, FAR_POD)),
    (service("local-elsewhere", "10.96.0.16", *ports(80, 30083), type="NodePort", externalTrafficPolicy="Local"), (FAR_POD,)),
    (service("inside", "10.96.0.17", *ports(80), internalTrafficPolicy="Local"), (B, FAR_POD)),
    (service("inside-elsewhere", "10.96.0.18", *ports(80), internalTrafficPolicy="Local"), (FAR_POD,)),
    (service("host", "10.96.0.20", ("h", "TCP", 443, 0), ("hu", "UDP", 443, 0)), (NODE,)),
    (balanced(service("lb", "10.96.0.30", *ports(80), type="LoadBalancer"), "10.96.250.1"), (B, FAR_POD)),
    (balanced(service("lb-local", "10.96.0.31", *ports(80), type="LoadBalancer", externalTrafficPolicy="Local"), "10.96.250.2"),
     (B, FAR_POD)),
    (balanced(service("lb-elsewhere", "10.96.0.32", *ports(80), type="LoadBalancer", externalTrafficPolicy="Local"),
              "10.96.250.3"), (FAR_POD,)),
    (balanced(service("lb-for-outside", "10.96.0.33", *ports(80), type="LoadBalancer",
                      loadBalancerSourceRanges=["192.168.50.0/24", "192.168.50.2/32"]), "10.96.250.4"), (B,)),
    (balanced(service("lb-for-others", "10.96.0.34", *ports(80), type="LoadBalancer",
                      loadBalancerSourceRanges=["203.0.113.0/24", "fd00::/8"]), "10.96.250.5"), (B,)),
    (balanced(service("lb-by-proxy", "10.96.0.35", *ports(80), type="LoadBalancer"), "10.96.250.6", mode="Proxy"), (B,)),
    (balanced(service("lb-empty", "10.96.0.36", *ports(80), type="LoadBalancer"), "10.96.250.7"), ()),
    (service("external", "10.96.0.37", *ports(80), externalIPs=["10.96.250.8", "not an address", "fd00::8"]), (B,)),
    (service("far-port", "10.96.0.19", *ports(80, 30084), type="NodePort"), (FAR_POD,)),
)

# feature; caller, address, port -> who may answer, as seen from which address ("" where it may be one or the other)
ROWS = (
    ("ClusterIP, from a pod", "pod-a", "10.96.0.10", 80, {"pod-b", "pod-c"}, A),
    ("ClusterIP, endpoint on another node", "pod-a", "10.96.0.11", 80, {"far"}, A),
    ("ClusterIP, from the node", "node", "10.96.0.10", 80, {"pod-b", "pod-c"}, GATEWAY),
    ("ClusterIP, from the node to another", "node", "10.96.0.11", 80, {"far"}, NODE),
    ("ClusterIP, from outside: masqueraded", "outside", "10.96.0.10", 80, {"pod-b", "pod-c"}, GATEWAY),
    ("hairpin", "pod-a", "10.96.0.13", 80, {"pod-a"}, GATEWAY),  # a pod that reaches itself
    ("NodePort, from outside", "outside", NODE, 30080, {"pod-b", "far"}, ""),
    ("NodePort, in and out by one wire", "outside", NODE, 30084, {"far"}, NODE),  # in and out by the same wire
    ("NodePort, from a pod", "pod-a", NODE, 30080, {"pod-b", "far"}, ""),
    ("NodePort, from the node", "node", NODE, 30080, {"pod-b", "far"}, ""),
    ("NodePort, at every address", "node", GATEWAY, 30080, {"pod-b", "far"}, ""),  # every address of the node
    ("NodePort, not on loopback", "node", "127.0.0.1", 30080, {"refused"}, ""),  # but loopback
    ("no endpoints, from outside: refused", "outside", "10.96.0.14", 80, {"refused"}, ""),  # nobody answers: say so
    ("no endpoints, from a pod: refused", "pod-a", "10.96.0.14", 80, {"refused"}, ""),
    ("no endpoints, from the node: refused", "node", "10.96.0.14", 80, {"refused"}, ""),
    ("no endpoints, NodePort: refused", "outside", NODE, 30081, {"refused"}, ""),
    ("a port the Service lacks: refused", "pod-a", "10.96.0.10", 81, {"refused"}, ""),  # a port the Service does not have
    ("externalTrafficPolicy Local: source kept", "outside", NODE, 30082, {"pod-b"}, OUTSIDE),
    ("externalTrafficPolicy Local, from the node", "node", NODE, 30082, {"pod-b", "far"}, ""),
    ("externalTrafficPolicy Local, none here: dropped", "outside", NODE, 30083, {"timeout"}, ""),
    ("externalTrafficPolicy Local, from a pod", "pod-a", NODE, 30083, {"far"}, NODE),
    ("load balancer, from outside", "outside", "10.96.250.1", 80, {"pod-b", "far"}, ""),
    ("load balancer, from the node", "node", "10.96.250.1", 80, {"pod-b", "far"}, ""),
    ("load balancer Local, from outside", "outside", "10.96.250.2", 80, {"pod-b"}, OUTSIDE),
    ("load balancer Local, from a pod", "pod-a", "10.96.250.2", 80, {"pod-b", "far"}, A),
    ("load balancer Local, none here: dropped", "outside", "10.96.250.3", 80, {"timeout"}, ""),
    ("load balancer Local, none here, from a pod", "pod-a", "10.96.250.3", 80, {"far"}, A),
    ("loadBalancerSourceRanges: in them", "outside", "10.96.250.4", 80, {"pod-b"}, GATEWAY),
    ("loadBalancerSourceRanges: a pod not in them", "pod-a", "10.96.250.4", 80, {"timeout"}, ""),  # not in the ranges
    ("loadBalancerSourceRanges: not in them", "outside", "10.96.250.5", 80, {"timeout"}, ""),
    ("loadBalancerSourceRanges: ClusterIP is open", "outside", "10.96.0.34", 80, {"pod-b"}, GATEWAY),
    ("load balancer of ipMode Proxy: left alone", "outside", "10.96.250.6", 80, {"timeout"}, ""),
    ("load balancer without endpoints: refused", "outside", "10.96.250.7", 80, {"refused"}, ""),
    ("externalIP", "outside", "10.96.250.8", 80, {"pod-b"}, GATEWAY),
    ("internalTrafficPolicy Local", "pod-a", "10.96.0.17", 80, {"pod-b"}, A),
    ("internalTrafficPolicy Local, none here: dropped", "pod-a", "10.96.0.18", 80, {"timeout"}, ""),
    ("host network endpoint, from the node", "node", "10.96.0.20", 443, {"host"}, ""),
    ("host network endpoint, from a pod", "pod-a", "10.96.0.20", 443, {"host"}, A),
    ("host network endpoint, from outside", "outside", "10.96.0.20", 443, {"host"}, OUTSIDE),
)


@pytest.fixture(scope="module")
def programmed(net: World, served: tuple[Api, int], running: Agent) -> None:
    for family in FAMILIES:
        for made, members in SERVICES:
            slices = endpoints(made["metadata"]["name"], *members, ports=TARGETS)
            served[0].put(in_family(family, slices), in_family(family, made))
    settled(net, "10.96.0.19", 80, mode=running.mode)
    eventually(lambda: net.ask("pod-a", of(Family.IPV6, "10.96.0.19"), 80)[0] == "far")


def in_family(family: Family, item: dict) -> dict:
    """An object of one family, by a name of its own in IPv6."""
    if family is Family.IPV4:
        return item
    moved = of(family, item)
    moved["metadata"]["name"] += "-6"
    if "labels" in moved["metadata"]:
        moved["metadata"]["labels"]["kubernetes.io/service-name"] += "-6"
    return moved


@pytest.mark.usefixtures("programmed")
@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("family", [Family.IPV4, pytest.param(Family.IPV6, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("feature", "caller", "address", "port", "answers", "seen"), ROWS, ids=[row[0] for row in ROWS])
def test_reaches(net: World, family: Family, protocol: str, feature: str, caller: str, address: str, port: int,
                 answers: set[str], seen: str) -> None:
    for _ in range(8 if seen else 1):
        who, source = net.ask(caller, of(family, address), port, protocol, 0.3 if answers == {"timeout"} else 3)
        assert who in answers
        assert not seen or source == of(family, seen)


@pytest.mark.usefixtures("programmed")
@pytest.mark.parametrize("family", [Family.IPV4, pytest.param(Family.IPV6, marks=pytest.mark.slow)])
def test_spreads_fairly(net: World, family: Family) -> None:
    seen = [net.ask("pod-a", of(family, "10.96.0.10"), 80)[0] for _ in range(200)]
    assert 60 < seen.count("pod-b") < 140


@pytest.mark.usefixtures("programmed")
def test_sysctls(net: World) -> None:
    read = net.spaces["node"].run(["sysctl", "-n", "net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables",
                                   "net.netfilter.nf_conntrack_tcp_be_liberal"])
    assert read.stdout.split() == ["1", "1", "1"]


def leaving(address: str) -> dict:
    state = {"ready": False, "serving": True, "terminating": True}
    return {"addresses": [address], "conditions": state, "nodeName": "node-1"}


# feature; endpoints before and after, what the Service says after; who answers a pod's ClusterIP and outside's NodePort then
TRANSITIONS = (
    ("transition: an endpoint is gone", (B, C), (C,), {}, {"pod-c"}, {"pod-c"}),
    ("transition: an endpoint terminates", (B, C), (leaving(B), C), {}, {"pod-c"}, {"pod-c"}),
    ("transition: all endpoints terminate", (B, C), (leaving(B),), {}, {"pod-b"}, {"pod-b"}),
    ("transition: nobody is left", (B, C), (), {}, {"refused"}, {"refused"}),
    ("transition: externalTrafficPolicy becomes Local", (B, FAR_POD), (B, FAR_POD), {"externalTrafficPolicy": "Local"},
     {"pod-b", "far"}, {"pod-b"}),
    ("transition: internalTrafficPolicy becomes Local", (B, FAR_POD), (B, FAR_POD), {"internalTrafficPolicy": "Local"},
     {"pod-b"}, {"pod-b", "far"}),
    ("transition: the agent is killed and comes back", (B, C), (C, FAR_POD), {}, {"pod-c", "far"}, {"pod-c", "far"}),
)


@pytest.mark.usefixtures("programmed")
@pytest.mark.parametrize("family", [Family.IPV4, pytest.param(Family.IPV6, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("feature", "before", "after", "spec", "inside", "outside"), TRANSITIONS, ids=[row[0] for row in TRANSITIONS])
def test_transitions(
    net: World, served: tuple[Api, int], running: Agent, family: Family, feature: str, before: tuple, after: tuple, spec: dict,
    inside: set[str], outside: set[str],
) -> None:
    """Connections that are there go on, whatever happens to new ones; and then those go where they should."""
    def put(members: tuple, **spec: object) -> None:
        web = service("moving", "10.96.0.50", *ports(80, 30088), type="NodePort", **spec)
        served[0].put(*(in_family(family, item) for item in (endpoints("moving", *members, ports=TARGETS), web)))

    def answers(caller: str, address: str, port: int, count: int = 24) -> set[str]:
        return {net.ask(caller, of(family, address), port)[0] for _ in range(count)}

    names = {address: name for name, address in PODS.items()} | {FAR_POD: "far"}
    put(before)
    eventually(lambda: answers("outside", NODE, 30088) == {names[address] for address in before})
    lines = [net.connect("pod-a", of(family, "10.96.0.50"), 80), net.connect("outside", of(family, NODE), 30088)]
    try:
        for line in lines:
            assert line.recv(100)
        if "killed" in feature:
            running.kill()
            assert answers("pod-a", "10.96.0.50", 80) == {names[address] for address in before}
        put(after, **spec)
        if "killed" in feature:
            running.start()
        eventually(lambda: answers("pod-a", "10.96.0.50", 80) == inside)
        eventually(lambda: answers("outside", NODE, 30088) == outside)
        for line in lines:
            line.sendall(b"ping")
            assert line.recv(100) == b"ping"
    finally:
        for line in lines:
            line.close()
