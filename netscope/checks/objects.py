"""What is wrong in the API's objects themselves: Services that nobody answers, ports nobody may use, addresses given twice.

Pure. Must not know: nodes' facts. Read next: `netscope/scene.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network

from netscope.checks.leases import subnets_of
from netscope.facts import Finding
from netscope.scene import Scene, addresses_of, cluster_ips, node_addresses, service_of
from nodecore.kube.objects import EndpointSlice, Service
from nodecore.kube.workload import seconds

DNS = 53
CLUSTER = "cluster"
PATIENCE = 60.0  # that pods have to become ready


def unanswered(scene: Scene) -> Iterator[Finding]:
    """Each Service whose pods are there has one that is ready, or has had till lately.

    One that no pod stands behind was scaled to zero, as far as anybody can tell, and is healthy: but for DNS, which all need.
    """
    behind: dict[str, list[EndpointSlice]] = {}
    for each in scene.objects.slices:
        behind.setdefault(service_of(each), []).append(each)
    for service in scene.objects.services:
        key = f"{service.metadata.namespace}/{service.metadata.name}"
        ready = waiting = 0
        for each in behind.get(key, ()):
            for endpoint in each.endpoints or ():
                ready += endpoint.conditions.ready is not False
                waiting += endpoint.conditions.ready is False
        if ready or not cluster_ips(service) or service.spec.type == "ExternalName":
            continue
        if _is_dns(service):
            yield Finding(CLUSTER, f"names are not resolved: Service {key} has no endpoints",
                          f"{waiting} pods that are not ready" if waiting else "no pod fits its selector")
        elif waiting and _for_long(scene, behind[key]):
            yield Finding(CLUSTER, f"none of the endpoints of Service {key} is ready", f"{waiting} pods that are not ready",
                          f"kubectl -n {service.metadata.namespace} describe pods")


def _for_long(scene: Scene, slices: Sequence[EndpointSlice]) -> bool:
    """Whether none of the pods behind these became unready just now."""
    addresses = {address for each in slices for endpoint in each.endpoints or () for address in endpoint.addresses or ()}
    changed = [seconds(condition.last_transition_time or pod.metadata.creation_timestamp)
               for pod in scene.objects.pods if addresses & set(addresses_of(pod))
               for condition in pod.status.conditions or () if condition.type == "Ready"]
    return scene.taken - max(changed, default=0.0) > PATIENCE


def _is_dns(service: Service) -> bool:
    return any(port.port == DNS for port in service.spec.ports or ())


def node_ports(scene: Scene) -> Iterator[Finding]:
    """NodePorts are in the range where the API gives them and nobody else takes them, and each is one Service's."""
    taken: dict[tuple[str, int], str] = {}
    low, high = scene.node_ports
    for service in scene.objects.services:
        key = f"{service.metadata.namespace}/{service.metadata.name}"
        for port in service.spec.ports or ():
            if port.node_port and not low <= port.node_port <= high:
                yield Finding(CLUSTER, f"the NodePort {port.node_port} of Service {key} is outside the range",
                              f"{low}-{high}: programs of the nodes may take it as their own")
            other = taken.setdefault((port.protocol, port.node_port), key)
            if port.node_port and other != key:
                yield Finding(CLUSTER, f"Services {other} and {key} have the same NodePort", f"{port.protocol} {port.node_port}")


def duplicates(scene: Scene) -> Iterator[Finding]:
    """No address is two pods' or two Services'; pods' addresses are of their node's subnet."""
    known: dict[str, str] = {}
    subnets = {node.metadata.name: subnets_of(scene, node) for node in scene.objects.nodes}
    for pod in scene.objects.pods:
        if pod.spec.host_network or pod.finished:
            continue
        for address in addresses_of(pod):
            other = known.setdefault(address, f"pod {pod.metadata.key}")
            if other != f"pod {pod.metadata.key}":
                yield Finding(pod.spec.node_name, f"{other} and pod {pod.metadata.key} have the same address", address)
            given = [each for each in subnets.get(pod.spec.node_name, []) if each.version == ip_address(address).version]
            if given and not any(ip_address(address) in each for each in given):
                yield Finding(pod.spec.node_name, f"the address of pod {pod.metadata.key} is not of its node's subnet",
                              f"{address}, but {given[0]} is this node's", f"kubectl delete pod {pod.metadata.name} "
                                                                           f"-n {pod.metadata.namespace}")
    for service in scene.objects.services:
        key = f"Service {service.metadata.namespace}/{service.metadata.name}"
        for address in cluster_ips(service):
            other = known.setdefault(address, key)
            if other != key:
                yield Finding(CLUSTER, f"{other} and {key} have the same address", address)


def overlaps(scene: Scene) -> Iterator[Finding]:
    """Pods' subnets, Services' addresses, nodes' addresses and the nodes' other networks are apart."""
    subnets = [(node.metadata.name, each) for node in scene.objects.nodes for each in subnets_of(scene, node)]
    for owner, subnet in subnets:
        for service in scene.objects.services:
            for address in cluster_ips(service):
                if ip_address(address) in subnet:
                    yield Finding(CLUSTER, f"the address of Service {service.metadata.name} is in the pods' subnet of {owner}",
                                  f"{address} in {subnet}")
        for node in scene.objects.nodes:
            for address in node_addresses(node):
                if ip_address(address) in subnet:
                    yield Finding(node.metadata.name, f"its own address is in the pods' subnet of {owner}",
                                  f"{address} in {subnet}")
        for name, facts in scene.facts.items():
            for each in facts.addresses:
                for info in each.addr_info:
                    network = ip_network(f"{info.local}/{info.prefixlen}", strict=False)
                    if network.version == subnet.version and network.num_addresses > 1 and name != owner and (
                            network.overlaps(subnet) and info.scope == "global"):
                        yield Finding(name, f"the network of {each.ifname} overlaps with the pods' subnet of {owner}",
                                      f"{network} and {subnet}")


SCENE_CHECKS = (unanswered, node_ports, duplicates, overlaps)
