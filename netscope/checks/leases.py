"""What the API says of each node's subnet and tunnel, held against the node itself and against the others.

Pure. Must not know: rules. Read next: `netscope/scene.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from itertools import combinations
from typing import Any

import msgspec

from netscope.checks.cluster import vteps
from netscope.facts import Finding
from netscope.scene import Scene, node_addresses
from nodecore.kube.objects import Node
from nodecore.net import IPNetwork

RESTART = "systemctl restart flanneld"
PARTS = (("FLANNEL_SUBNET", 4, "public-ip", "backend-data"), ("FLANNEL_IPV6_SUBNET", 6, "public-ipv6", "backend-v6-data"))


def subnets_of(scene: Scene, node: Node) -> list[IPNetwork]:
    """The subnets of a node's pods: the API's, where flannel takes them from there, else those flannel works with."""
    told = _told(scene, node)
    if told and not _is_given(node):
        return [ip_network(told[key], strict=False) for key, *_ in PARTS if key in told]
    texts = node.spec.pod_cidrs or [node.spec.pod_cidr]
    return [ip_network(text, strict=False) for text in texts if text]


def _told(scene: Scene, node: Node) -> Mapping[str, str]:
    facts = scene.facts.get(node.metadata.name)
    return (facts.settings.subnet if facts else None) or {}


def _is_given(node: Node) -> bool:
    """Whether flannel keeps its leases in the API: with them in etcd podCIDRs mean nothing."""
    return lease_of(node).get("kube-subnet-manager") == "true"


def one_subnet_each(scene: Scene) -> Iterator[Finding]:
    """No two nodes have the same pod subnet, or parts of it."""
    for one, other in combinations(scene.objects.nodes, 2):
        for here in subnets_of(scene, one):
            for there in subnets_of(scene, other):
                if here.version == there.version and here.overlaps(there):
                    yield Finding(one.metadata.name, f"its pods have the same subnet as those of {other.metadata.name}",
                                  f"{here} and {there}", f"kubectl delete node {other.metadata.name}")


def one_address_each(scene: Scene) -> Iterator[Finding]:
    """No two nodes tell the others the same address."""
    known: dict[str, str] = {}
    for node in scene.objects.nodes:
        lease = lease_of(node)
        told = {lease[name] for _, _, name, _ in PARTS if lease.get(name)} | set(node_addresses(node))
        for address in sorted(told):
            other = known.setdefault(address, node.metadata.name)
            if other != node.metadata.name:
                yield Finding(node.metadata.name, f"it tells the others the same address as {other}", address)


def lease_of(node: Node) -> dict[str, str]:
    """Flannel's annotations, by the part of their names behind the slash."""
    return {name.rpartition("/")[2]: text for name, text in (node.metadata.annotations or {}).items()}


def leases(scene: Scene) -> Iterator[Finding]:
    """The subnet a node works with is the one it was given; its lease tells what the node has."""
    for node in scene.objects.nodes:
        name = node.metadata.name
        if name not in scene.facts:
            continue
        yield from _expired(scene, node)
        lease = lease_of(node)
        have = {info.local for each in scene.facts[name].addresses for info in each.addr_info}
        have |= {each.address for each in node.status.addresses or ()}  # an ExternalIP may be somebody's who passes it on
        for _, version, public, data in PARTS:
            address = lease.get(public, "")
            if address and address not in have and f"{public}-overwrite" not in lease:
                yield Finding(name, "its lease tells the others an address that it has not", f"{public} {address}", RESTART)
            yield from _device(scene, name, _data(lease.get(data, "")), version)


def _expired(scene: Scene, node: Node) -> Iterator[Finding]:
    told = _told(scene, node) if _is_given(node) else {}
    for key, version, _, _ in PARTS:
        given = [each for each in subnets_of(scene, node) if each.version == version]
        if key in told and given and (uses := ip_network(told[key], strict=False)) not in given:
            yield Finding(node.metadata.name, "its lease is not of the subnet it works with any more",
                          f"{uses} in flannel's subnet file, {given[0]} in the API", RESTART)


def _data(text: str) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(text) if text else {}
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _device(scene: Scene, name: str, data: Mapping[str, Any], version: int) -> Iterator[Finding]:
    """The VXLAN the lease speaks of is there, with the MAC it tells."""
    if "VNI" not in data or "VtepMAC" not in data:
        return
    links = [end.link for end in vteps({name: scene.facts[name]})
             if end.vni == data["VNI"] and ip_address(end.address).version == version]
    if not links:
        yield Finding(name, f"its lease speaks of VXLAN {data['VNI']}, which it has not",
                      "others send into it, and nothing unpacks that here", RESTART)
    elif links[0].address != data["VtepMAC"]:
        yield Finding(name, f"{links[0].ifname} has another MAC than its lease tells the others",
                      f"{links[0].address}, told {data['VtepMAC']} (systemd's MACAddressPolicy changes it)",
                      f"ip link set {links[0].ifname} address {data['VtepMAC']}")


SCENE_CHECKS = (one_subnet_each, one_address_each, leases)
