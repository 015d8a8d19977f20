"""NetworkPolicies as the API has them, and whether they let a pod's packet pass.

What the policies say, not what somebody enforces: that is found in the rules. Pure. Read next: `netscope/explain.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from nodecore.kube.labels import LabelSelector
from nodecore.kube.objects import View
from nodecore.kube.workload import Meta, Pod

NAMES = {6: "TCP", 17: "UDP", 132: "SCTP"}
SIDES = {"Ingress": "from", "Egress": "to"}


class PolicySpec(View, frozen=True):
    """networking/v1 NetworkPolicySpec; the rules stay raw."""

    pod_selector: LabelSelector = LabelSelector()
    policy_types: list[str] | None = None
    ingress: list[dict[str, Any]] | None = None
    egress: list[dict[str, Any]] | None = None


class NetworkPolicy(View, frozen=True):
    """networking/v1 NetworkPolicy."""

    metadata: Meta = Meta()
    spec: PolicySpec = PolicySpec()

    def speaks_of(self, pod: Pod, side: str) -> bool:
        """Whether it isolates that pod in that direction."""
        types = self.spec.policy_types or ["Ingress", *(["Egress"] if self.spec.egress else [])]
        return (side in types and pod.metadata.namespace == self.metadata.namespace
                and self.spec.pod_selector.matches(pod.metadata.labels))


@dataclass(frozen=True, slots=True)
class Other:
    """Who is at the other side of the packet: an address, and the pod that has it where one does."""

    address: str
    pod: Pod | None


@dataclass(frozen=True, slots=True)
class Policies:
    """All of the cluster's, and the labels of its namespaces."""

    policies: Sequence[NetworkPolicy]
    namespaces: Mapping[str, Mapping[str, str]]

    def objection(self, source: Other, target: Other, protocol: int, port: int) -> str:
        """The words of those that let the packet not pass; empty where none minds."""
        for pod, other, side in ((source.pod, target, "Egress"), (target.pod, source, "Ingress")):
            if pod is None or pod.spec.host_network:
                continue
            speaking = [policy for policy in self.policies if policy.speaks_of(pod, side)]
            if speaking and not any(self._lets(policy, side, other, protocol, port) for policy in speaking):
                names = ", ".join(policy.metadata.key for policy in speaking)
                return f"NetworkPolicy {names}: {side.lower()} of pod/{pod.metadata.key} is limited to others"
        return ""

    def _lets(self, policy: NetworkPolicy, side: str, other: Other, protocol: int, port: int) -> bool:
        rules = (policy.spec.ingress if side == "Ingress" else policy.spec.egress) or []
        return any(
            (not rule.get(SIDES[side]) or any(self._is(policy, peer, other) for peer in rule[SIDES[side]]))
            and (not rule.get("ports") or any(_covers(each, protocol, port) for each in rule["ports"]))
            for rule in rules)

    def _is(self, policy: NetworkPolicy, peer: Mapping[str, Any], other: Other) -> bool:
        if block := peer.get("ipBlock"):
            address = ip_address(other.address)
            inside = [address in ip_network(cidr, strict=False) for cidr in (block["cidr"], *(block.get("except") or ()))]
            return inside[0] and not any(inside[1:])
        if other.pod is None:
            return False
        pods, namespaces = (msgspec.convert(peer.get(name), LabelSelector | None)
                            for name in ("podSelector", "namespaceSelector"))
        namespace = other.pod.metadata.namespace
        if namespaces is None and namespace != policy.metadata.namespace:
            return False
        if namespaces is not None and not namespaces.matches(dict(self.namespaces.get(namespace, {}))):
            return False
        return pods is None or pods.matches(other.pod.metadata.labels)


def _covers(each: Mapping[str, Any], protocol: int, port: int) -> bool:
    """Named ports are believed: which number a pod means by them is not looked up."""
    if each.get("protocol", "TCP") != NAMES.get(protocol):
        return False
    low = each.get("port")
    if low is None or isinstance(low, str):
        return True
    return bool(low <= port <= each.get("endPort", low))
