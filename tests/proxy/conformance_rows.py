"""The conformance table's questions: what Services there are, and who calls where, who may answer and whom it sees calling.

One state of the cluster for all rows, in IPv4; the other family has the same with other addresses. Read next:
`tests/proxy/test_conformance.py`, which asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy_net import FAMILIES, FAR_NODE, FAR_POD, GATEWAY, NODE, OUTSIDE, PODS, balanced, endpoints, of, service

from nodecore.net import Family

PROTOCOLS = ("tcp", "udp", "sctp")
A, B, C = PODS.values()
ZONE = "zone-1"
TARGETS = tuple((name, protocol, port) for letter, port in (("", 8080), ("host-", 9000), ("second-", 8081))
                for name, protocol in ((f"{letter}t", "TCP"), (f"{letter}u", "UDP"), (f"{letter}s", "SCTP")))
FIRST, HOST, SECOND = TARGETS[:3], TARGETS[3:6], TARGETS[6:]
Object = dict[str, Any]


def ports(port: int, node_port: int = 0, targets: tuple[tuple[str, str, int], ...] = FIRST) -> list[tuple[str, str, int, int]]:
    """A port in each protocol, answered by the targets' ports of the same names."""
    return [(name, protocol, port, node_port) for name, protocol, _ in targets]


def member(address: str, *, ready: bool = True, serving: bool | None = None, terminating: bool = False, zone: str = "",
           node: str = "") -> Object:
    """An endpoint in a state, meant for the callers of a zone, and of a node."""
    state = {"ready": ready, "serving": ready if serving is None else serving, "terminating": terminating}
    hints = ({"forZones": [{"name": zone}]} if zone else {}) | ({"forNodes": [{"name": node}]} if node else {})
    return {"addresses": [address], "conditions": state, "nodeName": "node-1" if address.startswith("10.244.1.") else "node-2",
            "hints": hints}


def leaving(address: str, *, serving: bool = True) -> Object:
    return member(address, ready=False, serving=serving, terminating=True)


def labelled(label: str, *objects: Object) -> list[Object]:
    for item in objects:
        item["metadata"].setdefault("labels", {})[f"service.kubernetes.io/{label}"] = ""
    return list(objects)


def made(name: str, address: str, *members: str | Object, node_port: int = 0, balancer: str = "", mode: str = "VIP",
         targets: tuple[tuple[str, str, int], ...] = FIRST, **spec: Any) -> list[Object]:
    """A Service at port 80 with its endpoints."""
    kind = "LoadBalancer" if balancer else "NodePort" if node_port else "ClusterIP"
    item = service(name, address, *ports(80, node_port, targets), **{"type": kind, **spec})
    return [endpoints(name, *members, ports=targets), balanced(item, balancer, mode=mode) if balancer else item]


def dual(name: str, address: str, *members: str, **options: Any) -> list[Object]:
    """One Service of both families, with a slice for each."""
    slices, services = zip(*(made(name, address, *members, **options) for _ in FAMILIES), strict=True)
    ours, theirs = (of(family, item) for family, item in zip(FAMILIES, slices, strict=True))
    theirs["metadata"]["name"] += "-6"
    web = services[0]
    web["spec"] |= {"clusterIPs": [address, of(Family.IPV6, address)], "ipFamilies": ["IPv4", "IPv6"],
                    "ipFamilyPolicy": "RequireDualStack"}
    if "status" in web:
        given = web["status"]["loadBalancer"]["ingress"]
        web["status"]["loadBalancer"]["ingress"] = given + of(Family.IPV6, given)
    return [ours, theirs, web]


NODE_PORT = {"type": "NodePort"}
LOCAL = {"externalTrafficPolicy": "Local"}
INSIDE = {"internalTrafficPolicy": "Local"}
STICKY = {"sessionAffinity": "ClientIP"}
QUICK = STICKY | {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}
RANGES = ["192.168.50.0/24", "192.168.50.2/32"]
SERVICES: tuple[list[Object], ...] = (
    made("near", "10.96.0.10", B, C),
    made("far", "10.96.0.11", FAR_POD),
    made("both", "10.96.0.12", B, FAR_POD, node_port=30080),
    made("self", "10.96.0.13", A, node_port=30086, balancer="10.96.250.13"),
    made("empty", "10.96.0.14", node_port=30081),
    made("local", "10.96.0.15", B, FAR_POD, node_port=30082, **LOCAL),
    made("local-elsewhere", "10.96.0.16", FAR_POD, node_port=30083, **LOCAL),
    made("inside", "10.96.0.17", B, FAR_POD, **INSIDE),
    made("inside-elsewhere", "10.96.0.18", FAR_POD, **INSIDE),
    made("far-port", "10.96.0.19", FAR_POD, node_port=30084),
    made("host", "10.96.0.20", NODE, targets=HOST),
    made("local-nobody", "10.96.0.21", node_port=30085, **LOCAL),
    made("lb", "10.96.0.30", B, FAR_POD, balancer="10.96.250.1"),
    made("lb-local", "10.96.0.31", B, FAR_POD, balancer="10.96.250.2", **LOCAL, healthCheckNodePort=31901),
    made("lb-elsewhere", "10.96.0.32", FAR_POD, balancer="10.96.250.3", **LOCAL, healthCheckNodePort=31902),
    made("lb-for-outside", "10.96.0.33", B, balancer="10.96.250.4", loadBalancerSourceRanges=RANGES),
    made("lb-for-others", "10.96.0.34", B, node_port=30087, balancer="10.96.250.5",
         loadBalancerSourceRanges=["203.0.113.0/24", "fd00::/8"]),
    made("lb-by-proxy", "10.96.0.35", B, balancer="10.96.250.6", mode="Proxy"),
    made("lb-empty", "10.96.0.36", balancer="10.96.250.7"),
    made("external", "10.96.0.37", B, externalIPs=["10.96.250.8", "not an address", "fd00::8"]),
    made("external-local", "10.96.0.38", B, FAR_POD, externalIPs=["10.96.250.9"], **NODE_PORT, **LOCAL),
    made("external-elsewhere", "10.96.0.39", FAR_POD, externalIPs=["10.96.250.10"], **NODE_PORT, **LOCAL),
    [endpoints("two-ports", B, ports=FIRST + SECOND),
     service("two-ports", "10.96.0.40", *ports(80, 30088), *ports(443, 30089, SECOND), type="NodePort")],
    made("hinted", "10.96.0.41", member(B, zone=ZONE), member(FAR_POD, zone="zone-2")),
    made("hinted-in-part", "10.96.0.42", member(B, zone=ZONE), member(C)),
    made("hinted-elsewhere", "10.96.0.43", member(B, zone="zone-2"), member(C, zone="zone-3")),
    made("close", "10.96.0.44", member(B, zone="zone-2"), member(C, zone=ZONE), node_port=30090,
         trafficDistribution="PreferClose"),
    made("same-zone", "10.96.0.45", member(B, zone=ZONE), member(FAR_POD, zone="zone-2"), trafficDistribution="PreferSameZone"),
    made("same-node", "10.96.0.46", member(B, zone=ZONE, node="node-1"), member(FAR_POD, zone=ZONE, node="node-2"),
         trafficDistribution="PreferSameNode"),
    made("same-node-none", "10.96.0.47", member(B, zone="zone-2", node="node-3"), member(FAR_POD, zone=ZONE, node="node-2"),
         trafficDistribution="PreferSameNode"),
    made("hinted-local", "10.96.0.48", member(B, zone="zone-2"), member(FAR_POD, zone=ZONE), node_port=30091, **LOCAL),
    made("unready", "10.96.0.49", member(B, ready=False), C),
    made("unready-alone", "10.96.0.51", member(B, ready=False)),
    made("published", "10.96.0.52", member(B, ready=False), publishNotReadyAddresses=True),
    made("leaving", "10.96.0.53", leaving(B), C),
    made("all-leaving", "10.96.0.54", leaving(B), leaving(C, serving=False)),
    made("all-gone", "10.96.0.55", leaving(B, serving=False)),
    made("local-leaving", "10.96.0.56", leaving(B), FAR_POD, node_port=30092, **LOCAL),
    made("local-unready", "10.96.0.57", member(B, ready=False), FAR_POD, node_port=30093, **LOCAL),
    made("sticky", "10.96.0.58", B, C, FAR_POD, node_port=30094, balancer="10.96.250.11", **STICKY),
    made("sticky-quick", "10.96.0.59", A, B, C, FAR_POD, **QUICK),
    made("headless", "None", B, externalIPs=["10.96.250.20"]),
    made("by-name", "", B, type="ExternalName", externalName="example.com", externalIPs=["10.96.250.21"]),
    labelled("service-proxy-name", *made("other-proxy", "10.96.0.60", B)),
    labelled("headless", *made("told-headless", "10.96.0.61", B)),
    made("last", "10.96.0.99", FAR_POD),
)
NO_RULES = ("headless", "by-name", "other-proxy", "told-headless")
REFUSED, DROPPED = {"refused": ""}, {"timeout": ""}


@dataclass(frozen=True)
class Row:
    """Who calls where; who may answer, each with the caller's address that it sees (or one of several)."""

    feature: str
    caller: str
    address: str
    port: int
    answers: dict[str, str]


BY_NODE = {"pod-b": GATEWAY, "far": NODE}  # masqueraded, by the way out to each
ROWS = tuple(Row(*row) for row in (
    ("ClusterIP, from a pod", "pod-a", "10.96.0.10", 80, {"pod-b": A, "pod-c": A}),
    ("ClusterIP, endpoint on another node", "pod-a", "10.96.0.11", 80, {"far": A}),
    ("ClusterIP, from the node", "node", "10.96.0.10", 80, {"pod-b": GATEWAY, "pod-c": GATEWAY}),
    ("ClusterIP, from the node to another", "node", "10.96.0.11", 80, {"far": NODE}),
    ("ClusterIP, from another node: masqueraded", "far", "10.96.0.10", 80, {"pod-b": GATEWAY, "pod-c": GATEWAY}),
    ("ClusterIP, from outside: masqueraded", "outside", "10.96.0.10", 80, {"pod-b": GATEWAY, "pod-c": GATEWAY}),
    ("several ports: the first", "pod-a", "10.96.0.40", 80, {"pod-b": A}),
    ("several ports: the second", "pod-a", "10.96.0.40", 443, {"pod-b-too": A}),
    ("several ports: the first NodePort", "outside", NODE, 30088, {"pod-b": GATEWAY}),
    ("several ports: the second NodePort", "outside", NODE, 30089, {"pod-b-too": GATEWAY}),
    ("hairpin", "pod-a", "10.96.0.13", 80, {"pod-a": GATEWAY}),
    ("hairpin by NodePort", "pod-a", NODE, 30086, {"pod-a": GATEWAY}),
    ("hairpin by load balancer", "pod-a", "10.96.250.13", 80, {"pod-a": GATEWAY}),
    ("NodePort, from outside", "outside", NODE, 30080, BY_NODE),
    ("NodePort, in and out by one wire", "outside", NODE, 30084, {"far": NODE}),
    ("NodePort, from a pod", "pod-a", NODE, 30080, BY_NODE),
    ("NodePort, from the node", "node", NODE, 30080, BY_NODE),
    ("NodePort, from another node", "far", NODE, 30080, BY_NODE),
    ("NodePort, at every address", "node", GATEWAY, 30080, BY_NODE),
    ("NodePort, not on loopback", "node", "127.0.0.1", 30080, REFUSED),
    ("no endpoints, from outside: refused", "outside", "10.96.0.14", 80, REFUSED),
    ("no endpoints, from another node: refused", "far", "10.96.0.14", 80, REFUSED),
    ("no endpoints, from a pod: refused", "pod-a", "10.96.0.14", 80, REFUSED),
    ("no endpoints, from the node: refused", "node", "10.96.0.14", 80, REFUSED),
    ("no endpoints, NodePort: refused", "outside", NODE, 30081, REFUSED),
    ("no endpoints, NodePort Local: refused", "outside", NODE, 30085, REFUSED),
    ("a port the Service lacks: refused", "pod-a", "10.96.0.10", 81, REFUSED),
    ("externalTrafficPolicy Local: source kept", "outside", NODE, 30082, {"pod-b": OUTSIDE}),
    ("externalTrafficPolicy Local, another node: source kept", "far", NODE, 30082, {"pod-b": FAR_NODE}),
    ("externalTrafficPolicy Local, from the node", "node", NODE, 30082, BY_NODE),
    ("externalTrafficPolicy Local, none here: dropped", "outside", NODE, 30083, DROPPED),
    ("externalTrafficPolicy Local, from a pod", "pod-a", NODE, 30083, {"far": NODE}),
    ("load balancer, from outside", "outside", "10.96.250.1", 80, BY_NODE),
    ("load balancer, from another node", "far", "10.96.250.1", 80, BY_NODE),
    ("load balancer, from a pod", "pod-a", "10.96.250.1", 80, BY_NODE),
    ("load balancer, from the node", "node", "10.96.250.1", 80, BY_NODE),
    ("load balancer Local: source kept", "outside", "10.96.250.2", 80, {"pod-b": OUTSIDE}),
    ("load balancer Local, from a pod", "pod-a", "10.96.250.2", 80, {"pod-b": A, "far": A}),
    ("load balancer Local, none here: dropped", "outside", "10.96.250.3", 80, DROPPED),
    ("load balancer Local, none here, from a pod", "pod-a", "10.96.250.3", 80, {"far": A}),
    ("loadBalancerSourceRanges: in them", "outside", "10.96.250.4", 80, {"pod-b": GATEWAY}),
    ("loadBalancerSourceRanges: a pod not in them", "pod-a", "10.96.250.4", 80, DROPPED),
    ("loadBalancerSourceRanges: not in them", "outside", "10.96.250.5", 80, DROPPED),
    ("loadBalancerSourceRanges: ClusterIP is open", "outside", "10.96.0.34", 80, {"pod-b": GATEWAY}),
    ("loadBalancerSourceRanges: NodePort is open", "outside", NODE, 30087, {"pod-b": GATEWAY}),
    ("load balancer of ipMode Proxy: left alone", "outside", "10.96.250.6", 80, DROPPED),
    ("load balancer without endpoints: refused", "outside", "10.96.250.7", 80, REFUSED),
    ("externalIP", "outside", "10.96.250.8", 80, {"pod-b": GATEWAY}),
    ("externalIP, from a pod", "pod-a", "10.96.250.8", 80, {"pod-b": GATEWAY}),
    ("externalIP Local: source kept", "outside", "10.96.250.9", 80, {"pod-b": OUTSIDE}),
    ("externalIP Local, none here: dropped", "outside", "10.96.250.10", 80, DROPPED),
    ("internalTrafficPolicy Local", "pod-a", "10.96.0.17", 80, {"pod-b": A}),
    ("internalTrafficPolicy Local, from the node", "node", "10.96.0.17", 80, {"pod-b": GATEWAY}),
    ("internalTrafficPolicy Local, none here: dropped", "pod-a", "10.96.0.18", 80, DROPPED),
    ("host network endpoint, from the node", "node", "10.96.0.20", 80, {"host": f"{GATEWAY} {NODE}"}),  # the kernel's choice
    ("host network endpoint, from a pod", "pod-a", "10.96.0.20", 80, {"host": A}),
    ("host network endpoint, from outside", "outside", "10.96.0.20", 80, {"host": OUTSIDE}),
    ("dual-stack: ClusterIP", "pod-a", "10.96.0.62", 80, {"pod-b": A, "far": A}),
    ("dual-stack: NodePort", "outside", NODE, 30095, BY_NODE),
    ("dual-stack: load balancer", "outside", "10.96.250.12", 80, BY_NODE),
    ("topology hints: this zone", "pod-a", "10.96.0.41", 80, {"pod-b": A}),
    ("topology hints: not all have one: all", "pod-a", "10.96.0.42", 80, {"pod-b": A, "pod-c": A}),
    ("topology hints: nobody in this zone: all", "pod-a", "10.96.0.43", 80, {"pod-b": A, "pod-c": A}),
    ("topology hints: a Local policy goes before", "outside", NODE, 30091, {"pod-b": OUTSIDE}),
    ("trafficDistribution PreferClose", "pod-a", "10.96.0.44", 80, {"pod-c": A}),
    ("trafficDistribution PreferClose, NodePort", "outside", NODE, 30090, {"pod-c": GATEWAY}),
    ("trafficDistribution PreferSameZone", "pod-a", "10.96.0.45", 80, {"pod-b": A}),
    ("trafficDistribution PreferSameNode", "pod-a", "10.96.0.46", 80, {"pod-b": A}),
    ("trafficDistribution PreferSameNode, none: the zone", "pod-a", "10.96.0.47", 80, {"far": A}),
    ("endpoints: not ready", "pod-a", "10.96.0.49", 80, {"pod-c": A}),
    ("endpoints: none ready: refused", "pod-a", "10.96.0.51", 80, REFUSED),
    ("publishNotReadyAddresses", "pod-a", "10.96.0.52", 80, {"pod-b": A}),
    ("endpoints: one terminates", "pod-a", "10.96.0.53", 80, {"pod-c": A}),
    ("endpoints: all terminate, one serves", "pod-a", "10.96.0.54", 80, {"pod-b": A}),
    ("endpoints: all terminate, none serves: refused", "pod-a", "10.96.0.55", 80, REFUSED),
    ("endpoints: the only one here terminates, Local", "outside", NODE, 30092, {"pod-b": OUTSIDE}),
    ("endpoints: the only one here terminates, ClusterIP", "pod-a", "10.96.0.56", 80, {"far": A}),
    ("endpoints: the only one here is not ready, Local: dropped", "outside", NODE, 30093, DROPPED),
    ("service-proxy-name: another proxy's", "outside", "10.96.0.60", 80, DROPPED),
    ("label headless: left alone", "outside", "10.96.0.61", 80, DROPPED),
    ("headless: no rules", "outside", "10.96.250.20", 80, DROPPED),
    ("ExternalName: no rules", "outside", "10.96.250.21", 80, DROPPED),
))
# ... and who always gets the same answer
STAY = (
    ("sessionAffinity ClientIP", "pod-a", "10.96.0.58", 80),
    ("sessionAffinity ClientIP, from the node", "node", "10.96.0.58", 80),
    ("sessionAffinity ClientIP, NodePort", "outside", NODE, 30094),
    ("sessionAffinity ClientIP, load balancer", "outside", "10.96.250.11", 80),
)
