"""A pod network for each node, cut from the cluster's (only with `--allocate-node-cidrs`).

All nodes are planned together, so that two new ones never get the same. Read next: `minik8s/controllers/nodehealth.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nodecore.kube.resource import NODES
from nodecore.kube.workload import Node
from nodecore.net import IPNetwork, parse_network

from .ops import Op, Patch, Plan, Told, involved
from .world import Collection


def choose(cluster: IPNetwork, prefix: int, taken: Iterable[IPNetwork]) -> IPNetwork | None:
    """The first subnet of that size that overlaps none of the taken ones."""
    busy = [network for network in taken if network.version == cluster.version]
    exact = {network for network in busy if network.prefixlen == prefix}
    others = [network for network in busy if network.prefixlen != prefix]
    for candidate in cluster.subnets(new_prefix=prefix):
        if candidate not in exact and not any(candidate.overlaps(network) for network in others):
            return candidate
    return None


def plan_cidrs(nodes: Iterable[Node], clusters: Sequence[IPNetwork], prefixes: Sequence[int]) -> Plan:
    """A network of each family for every node that has none."""
    everyone = sorted(nodes, key=lambda node: (node.metadata.creation_timestamp or "", node.metadata.name))
    taken = [parse_network(cidr) for node in everyone for cidr in node.spec.pod_cidrs or [node.spec.pod_cidr] if cidr]
    ops: list[Op] = []
    for node in everyone:
        if node.spec.pod_cidr or node.metadata.deletion_timestamp:
            continue
        chosen = [choose(cluster, prefix, taken) for cluster, prefix in zip(clusters, prefixes, strict=True)]
        cidrs = [network for network in chosen if network is not None]
        if len(cidrs) < len(clusters):
            ops.append(Told(involved(NODES, node.metadata), "CIDRNotAvailable",
                            "Node status is now: CIDRNotAvailable", "Warning"))
            continue
        taken += cidrs
        texts = [str(network) for network in cidrs]
        ops.append(Patch(NODES, node.metadata, {"spec": {"podCIDR": texts[0], "podCIDRs": texts}}, f"pod network {texts[0]}"))
    return Plan(tuple(ops), 60.0 if any(isinstance(op, Told) for op in ops) else None)


class NodeCidrs:
    """The controller around `plan_cidrs`; its one key stands for all nodes."""

    name = "nodecidr"

    def __init__(self, nodes: Collection[Node], clusters: Sequence[IPNetwork], prefixes: Sequence[int]) -> None:
        self.nodes, self.clusters, self.prefixes = nodes, clusters, prefixes

    def listen(self, mark: Callable[[str], None]) -> None:
        """A node without a network, or one that gave its network back."""
        def of_node(old: Node | None, new: Node | None) -> None:
            if new is None or not new.spec.pod_cidr:
                mark("nodes")

        self.nodes.listeners.append(of_node)

    def plan(self, key: str, now: float) -> Plan:
        """Everything at once."""
        return plan_cidrs(self.nodes, self.clusters, self.prefixes)
