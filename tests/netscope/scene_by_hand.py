"""What the API would say of the network in net_by_hand.py: two nodes, a pod on each, the Service, and DNS."""

from __future__ import annotations

from net_by_hand import VIA, VTEPS, Net

from netscope.gather import look
from netscope.nodes import Nodes
from netscope.scene import Objects, Scene
from nodecore.kube.objects import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Node,
    NodeAddress,
    NodeCondition,
    NodeSpec,
    NodeStatus,
    ObjectMeta,
    Service,
    ServicePort,
    ServiceSpec,
)
from nodecore.kube.workload import Condition, Meta, Pod, PodIP, PodSpec, PodStatus
from nodecore.net import Family

FLANNEL = "flannel.alpha.coreos.com/"


def objects_of(net: Net) -> Objects:
    """All of them."""
    plan = net.plan
    public, data = ("public-ip", "backend-data") if plan.family is Family.IPV4 else ("public-ipv6", "backend-v6-data")
    return Objects(
        nodes=tuple(Node(
            ObjectMeta(net.name(letter), annotations={
                f"{FLANNEL}kube-subnet-manager": "true", f"{FLANNEL}backend-type": "vxlan",
                f"{FLANNEL}{public}": plan.node(number),
                f"{FLANNEL}{data}": f'{{"VNI":1,"VtepMAC":"{VTEPS[letter]}"}}'}),
            NodeSpec(pod_cidr=plan.subnet(number), pod_cidrs=[plan.subnet(number)]),
            NodeStatus([NodeAddress("InternalIP", plan.node(number))], [NodeCondition("Ready", "True")]))
            for number, letter in ((1, "a"), (2, "b"))),
        pods=tuple(Pod(
            Meta(letter, "default", labels={"app": letter}), PodSpec(net.name(letter)),
            PodStatus("Running", [Condition("Ready", "True")], plan.pod(number), [PodIP(plan.pod(number))]))
            for number, letter in ((1, "a"), (2, "b"))),
        services=(Service(ObjectMeta("web", "default"), ServiceSpec(
            cluster_ip=plan.service, cluster_ips=[plan.service], ports=[ServicePort(80), ServicePort(80, "udp", "UDP")])),),
        slices=(EndpointSlice(
            ObjectMeta("web-1", "default", labels={"kubernetes.io/service-name": "web"}), plan.family.name.replace("IPV", "IPv"),
            [Endpoint([plan.pod(2)], node_name=net.name("b"))],
            [EndpointPort(8080, "", "TCP"), EndpointPort(8080, "udp", "UDP")]),),
    )


def scene_of(net: Net, nodes: Nodes | None = None) -> Scene:
    """Now, nothing sent; by agents that are there already, or by others."""
    if nodes:
        return look(objects_of(net), nodes)
    with Nodes(net.directory.nodes, VIA) as new:
        return look(objects_of(net), new)
