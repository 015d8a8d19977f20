"""What a kubelet may write: its own node without labels and taints that would draw others' pods to it, and mirror pods.

Authorization by the graph of pods comes before (`auth/nodes.py`). Read next: `chain.py`.
"""

from __future__ import annotations

from minik8s.apiserver.admission.asked import CREATE, UPDATE, Asked, Object
from minik8s.apiserver.auth.nodes import references

MIRROR = "kubernetes.io/config.mirror"
OWN_LABELS = frozenset({
    "kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
    "node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type", "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone",
    "node.kubernetes.io/windows-build"})
OWN_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
KEPT_DOMAIN = "node-restriction.kubernetes.io"


class NodeRestriction:
    """The plugin."""

    name = "NodeRestriction"
    needs: tuple[str, ...] = ()

    def concerns(self, asked: Asked) -> bool:
        """What kubelets write."""
        return bool(asked.user.node)

    def shape(self, asked: Asked) -> None:
        """Nothing."""

    def check(self, asked: Asked) -> None:
        """Refuse what is not the node's to write."""
        match asked.kind.resource.plural:
            case "nodes":
                self._node(asked)
            case "pods":
                self._pod(asked)
            case "leases" | "csinodes" if asked.name != asked.user.node:
                raise asked.refuse("a node can only access the object with its own name")

    def _node(self, asked: Asked) -> None:
        node = asked.user.node
        if asked.name != node:
            raise asked.refuse(f"node {node!r} is not allowed to modify node {asked.name!r}".replace("'", '"'))
        new, old = (each.get("metadata", {}).get("labels") or {} for each in (asked.obj, asked.old))
        changed = {key for key in {*new, *old} if new.get(key) != old.get(key)}
        wrong = sorted(key for key in changed if _reserved(key))
        if wrong:
            raise asked.refuse(f'is not allowed to modify labels: {", ".join(wrong)}')
        if _owners(asked.obj) != _owners(asked.old):
            raise asked.refuse(f'node "{node}" is not allowed to modify ownerReferences')
        if asked.operation == UPDATE and not asked.sub and (asked.obj.get("spec") or {}).get("taints") != (
                asked.old.get("spec") or {}).get("taints"):
            raise asked.refuse(f'node "{node}" is not allowed to modify taints')

    def _pod(self, asked: Asked) -> None:
        node = asked.user.node
        pod = asked.obj
        if (pod.get("spec") or {}).get("nodeName") != node:
            raise asked.refuse(f'node "{node}" can only act on pods with spec.nodeName set to itself')
        if asked.operation == CREATE and not asked.sub:
            if not (pod["metadata"].get("annotations") or {}).get(MIRROR):
                raise asked.refuse(f'pod does not have "{MIRROR}" annotation, node "{node}" can only create mirror pods')
            if (pod.get("spec") or {}).get("serviceAccountName"):
                raise asked.refuse(f'node "{node}" can not create pods that reference a service account')
            if any((each.get("kind"), each.get("name")) != ("Node", node) for each in _owners(pod)):
                raise asked.refuse(f'node "{node}" can only create pods with an owner reference set to itself')
            plain = {**pod, "metadata": {**pod["metadata"], "annotations": {}}}
            wrong = sorted(f"{resource} {name}" for resource, _, name in references(plain)
                           if (resource, name) != ("serviceaccounts", "default"))
            if wrong:
                raise asked.refuse(f'node "{node}" can not create pods that reference {wrong[0]}')
        if asked.sub == "status" and asked.obj["metadata"].get("labels") != asked.old["metadata"].get("labels"):
            raise asked.refuse(f'node "{node}" cannot update labels through pod status')


def _owners(obj: Object) -> list[Object]:
    return list((obj.get("metadata") or {}).get("ownerReferences") or ())


def _reserved(label: str) -> bool:
    domain = label.rpartition("/")[0]
    if domain == KEPT_DOMAIN or domain.endswith("." + KEPT_DOMAIN):
        return True
    if label in OWN_LABELS or any(domain == each or domain.endswith("." + each) for each in OWN_DOMAINS):
        return False
    return any(domain == each or domain.endswith("." + each) for each in ("kubernetes.io", "k8s.io"))
