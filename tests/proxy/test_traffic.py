"""Where do the packets go? Each row asks as somebody, and says who may answer and which caller's address it must see."""

from __future__ import annotations

import pytest
from conftest import Agent, settled
from proxy_api import Api
from proxy_net import FAR_POD, GATEWAY, NODE, OUTSIDE, PODS, World, balanced, endpoints, service

pytestmark = pytest.mark.kernel
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

# caller, address, port -> who may answer, as seen from which address ("" where nobody answers)
ROWS = (
    ("pod-a", "10.96.0.10", 80, {"pod-b", "pod-c"}, A),  # a pod keeps its address, on the same bridge too
    ("pod-a", "10.96.0.11", 80, {"far"}, A),
    ("node", "10.96.0.10", 80, {"pod-b", "pod-c"}, GATEWAY),  # the node asks with the address on the pods' side
    ("node", "10.96.0.11", 80, {"far"}, NODE),
    ("outside", "10.96.0.10", 80, {"pod-b", "pod-c"}, GATEWAY),  # from outside the cluster: masqueraded
    ("pod-a", "10.96.0.13", 80, {"pod-a"}, GATEWAY),  # a pod that reaches itself
    ("outside", NODE, 30080, {"pod-b", "far"}, ""),
    ("outside", NODE, 30084, {"far"}, NODE),  # in and out by the same wire
    ("pod-a", NODE, 30080, {"pod-b", "far"}, ""),
    ("node", NODE, 30080, {"pod-b", "far"}, ""),
    ("node", GATEWAY, 30080, {"pod-b", "far"}, ""),  # every address of the node
    ("node", "127.0.0.1", 30080, {"refused"}, ""),  # but loopback
    ("outside", "10.96.0.14", 80, {"refused"}, ""),  # nobody answers: say so
    ("pod-a", "10.96.0.14", 80, {"refused"}, ""),
    ("node", "10.96.0.14", 80, {"refused"}, ""),
    ("outside", NODE, 30081, {"refused"}, ""),
    ("pod-a", "10.96.0.10", 81, {"refused"}, ""),  # a port the Service does not have
    ("outside", NODE, 30082, {"pod-b"}, OUTSIDE),  # Local policy: only here, and the caller's own address
    ("node", NODE, 30082, {"pod-b", "far"}, ""),  # ... which is for those outside only
    ("outside", NODE, 30083, {"timeout"}, ""),  # Local, but only elsewhere: dropped
    ("pod-a", NODE, 30083, {"far"}, NODE),
    ("outside", "10.96.250.1", 80, {"pod-b", "far"}, ""),
    ("node", "10.96.250.1", 80, {"pod-b", "far"}, ""),
    ("outside", "10.96.250.2", 80, {"pod-b"}, OUTSIDE),
    ("pod-a", "10.96.250.2", 80, {"pod-b", "far"}, A),  # from inside the cluster the policy does not count
    ("outside", "10.96.250.3", 80, {"timeout"}, ""),
    ("pod-a", "10.96.250.3", 80, {"far"}, A),
    ("outside", "10.96.250.4", 80, {"pod-b"}, GATEWAY),
    ("pod-a", "10.96.250.4", 80, {"timeout"}, ""),  # not in the ranges
    ("outside", "10.96.250.5", 80, {"timeout"}, ""),
    ("outside", "10.96.0.34", 80, {"pod-b"}, GATEWAY),  # the ranges close the load balancer, not the ClusterIP
    ("outside", "10.96.250.6", 80, {"timeout"}, ""),  # the load balancer wants to see the packets itself
    ("outside", "10.96.250.7", 80, {"refused"}, ""),
    ("outside", "10.96.250.8", 80, {"pod-b"}, GATEWAY),
    ("pod-a", "10.96.0.17", 80, {"pod-b"}, A),
    ("pod-a", "10.96.0.18", 80, {"timeout"}, ""),
    ("node", "10.96.0.20", 443, {"host"}, ""),  # the API server's Service is like this: the node reaches itself
    ("pod-a", "10.96.0.20", 443, {"host"}, A),
    ("outside", "10.96.0.20", 443, {"host"}, OUTSIDE),
)


@pytest.fixture(scope="module")
def programmed(net: World, served: tuple[Api, int], running: Agent) -> None:
    for made, members in SERVICES:
        served[0].put(endpoints(made["metadata"]["name"], *members, ports=TARGETS), made)
    settled(net, "10.96.0.19", 80, mode=running.mode)


@pytest.mark.usefixtures("programmed")
@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize(("caller", "address", "port", "answers", "seen"), ROWS)
def test_reaches(net: World, protocol: str, caller: str, address: str, port: int, answers: set[str], seen: str) -> None:
    for _ in range(8 if seen else 1):
        who, source = net.ask(caller, address, port, protocol, 0.3 if answers == {"timeout"} else 3)
        assert who in answers
        assert not seen or source == seen


@pytest.mark.usefixtures("programmed")
def test_spreads_fairly(net: World) -> None:
    seen = [net.ask("pod-a", "10.96.0.10", 80)[0] for _ in range(200)]
    assert 60 < seen.count("pod-b") < 140


@pytest.mark.usefixtures("programmed")
def test_sysctls(net: World) -> None:
    read = net.spaces["node"].run(["sysctl", "-n", "net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables",
                                   "net.netfilter.nf_conntrack_tcp_be_liberal"])
    assert read.stdout.split() == ["1", "1", "1"]
