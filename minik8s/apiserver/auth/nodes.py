"""What a kubelet may do: its own node, the pods bound to it, and what those pods refer to; nobody else's.

    graph = Graph(); graph.put(key, pod); graph.drop(key)
    decide(graph, "node-1", attributes)        "" or why it is allowed

Pure. Must not know: storage, HTTP. Read next: `access.py`; `admission/noderestriction.py` for what it may write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from minik8s.apiserver.auth.authorize import READ, Attributes
from minik8s.apiserver.auth.policy import CLUSTER_ROLES, line
from minik8s.apiserver.auth.rbac import Rule, rule_of
from minik8s.apiserver.request.selectors import demanded

Object = dict[str, Any]
Ref = tuple[str, str, str]  # resource, namespace, name
RULES: tuple[Rule, ...] = tuple(rule_of(line(each)) for each in CLUSTER_ROLES["system:node"])
REFERRED = frozenset({"secrets", "configmaps", "persistentvolumeclaims", "serviceaccounts", "persistentvolumes"})
LEASES = "kube-node-lease"


class Graph:
    """Which pod is on which node, and what each node's pods refer to."""

    def __init__(self) -> None:
        self._pods: dict[str, tuple[str, frozenset[Ref]]] = {}
        self._refs: dict[str, Counter[Ref]] = {}

    def put(self, key: str, pod: Object) -> None:
        """A pod is there now, or has changed."""
        node = str((pod.get("spec") or {}).get("nodeName") or "")
        known = self._pods.get(key)
        found = (node, frozenset(references(pod)) if node else frozenset())
        if known == found:
            return
        self.drop(key)
        self._pods[key] = found
        if node:
            self._refs.setdefault(node, Counter()).update(found[1])

    def drop(self, key: str) -> None:
        """A pod has gone."""
        node, refs = self._pods.pop(key, ("", frozenset()))
        if node:
            self._refs[node] -= Counter(refs)
            if not self._refs[node]:
                del self._refs[node]

    def refers(self, node: str, resource: str, namespace: str, name: str) -> bool:
        """Whether a pod of that node refers to an object."""
        return self._refs.get(node, Counter())[resource, namespace, name] > 0

    def node_of(self, namespace: str, name: str) -> str:
        """The node a pod is bound to."""
        return self._pods.get(f"{namespace}/{name}", ("", frozenset()))[0]


def references(pod: Object) -> Iterator[Ref]:
    """Everything a pod refers to, by its spec."""
    spec, meta = pod.get("spec") or {}, pod["metadata"]
    if (meta.get("annotations") or {}).get("kubernetes.io/config.mirror"):
        return
    for resource, name in _named(spec, str(meta.get("name", ""))):
        if name:
            yield resource, str(meta.get("namespace", "")), str(name)


def _named(spec: Object, pod: str) -> Iterator[tuple[str, Any]]:
    yield "serviceaccounts", spec.get("serviceAccountName") or "default"
    for each in spec.get("imagePullSecrets") or ():
        yield "secrets", each.get("name")
    for volume in spec.get("volumes") or ():
        yield from _of_volume(volume, pod)
    for part in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(part) or ():
            for entry in container.get("envFrom") or ():
                yield "configmaps", (entry.get("configMapRef") or {}).get("name")
                yield "secrets", (entry.get("secretRef") or {}).get("name")
            for entry in container.get("env") or ():
                source = entry.get("valueFrom") or {}
                yield "configmaps", (source.get("configMapKeyRef") or {}).get("name")
                yield "secrets", (source.get("secretKeyRef") or {}).get("name")


def _of_volume(volume: Object, pod: str) -> Iterator[tuple[str, Any]]:
    yield "secrets", (volume.get("secret") or {}).get("secretName")
    yield "configmaps", (volume.get("configMap") or {}).get("name")
    yield "persistentvolumeclaims", (volume.get("persistentVolumeClaim") or {}).get("claimName")
    if volume.get("ephemeral"):
        yield "persistentvolumeclaims", f"{pod}-{volume.get('name')}"
    for source in volume.values():
        if isinstance(source, dict):
            for field in ("secretRef", "nodePublishSecretRef"):
                yield "secrets", (source.get(field) or {}).get("name")
    for source in (volume.get("projected") or {}).get("sources") or ():
        yield "secrets", (source.get("secret") or {}).get("name")
        yield "configmaps", (source.get("configMap") or {}).get("name")


def decide(graph: Graph, node: str, asked: Attributes) -> str:
    """Why a kubelet may do this; empty when it may not by being one."""
    resource, _, sub = asked.resource.partition("/")
    if asked.path or not any(rule.allows(asked) for rule in RULES):
        return ""
    if asked.group == "" and resource in REFERRED and not _may_touch(graph, node, resource, sub, asked):
        return ""
    if asked.group == "" and resource == "nodes" and not _own_node(node, asked):
        return ""
    if asked.group == "" and resource == "pods" and not _own_pods(graph, node, asked):
        return ""
    if resource == "leases" and (asked.namespace != LEASES or (asked.verb != "create" and asked.name != node)):
        return ""
    if resource == "csinodes" and asked.verb != "create" and asked.name != node:
        return ""
    return f"Node: what a kubelet may do on node {node!r}"


def _may_touch(graph: Graph, node: str, resource: str, sub: str, asked: Attributes) -> bool:
    token = resource == "serviceaccounts" and sub == "token" and asked.verb == "create"
    return bool(asked.name) and graph.refers(node, resource, asked.namespace, asked.name) \
        and (asked.verb in READ or token or sub == "status")


def _own_node(node: str, asked: Attributes) -> bool:
    return asked.name == node or (asked.verb == "create" and not asked.name)


def _own_pods(graph: Graph, node: str, asked: Attributes) -> bool:
    if asked.verb in ("list", "watch"):
        return demanded(asked.fields).get("spec.nodeName") == node \
            or (bool(asked.name) and graph.node_of(asked.namespace, asked.name) == node)
    if asked.verb == "create" and "/" not in asked.resource:
        return True  # a mirror pod: NodeRestriction looks what it is
    return graph.node_of(asked.namespace, asked.name) == node
