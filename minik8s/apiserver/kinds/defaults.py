"""What an object says when its author did not: defaults of each kind, as the original fills them in.

    default("Pod", obj)     changes obj in place; doing it twice changes nothing

Pure and total: what has the wrong shape is left for validation to name.
Must not know: HTTP, storage. Read next: `defaults_pod.py`, `defaults_table.py`, `validate.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from minik8s.apiserver.kinds.catalogue import KINDS
from minik8s.apiserver.kinds.defaults_pod import each, pod_spec, section
from minik8s.apiserver.kinds.defaults_table import fill

Object = dict[str, Any]
OWN_VERSIONS = {None, *(kind.resource.api_version for kind in KINDS)}


def default(kind: str, obj: Object) -> None:
    """Fill in the defaults of a kind."""
    if obj.get("apiVersion") in OWN_VERSIONS:
        BY_KIND.get(kind, partial(fill, kind))(obj)


def _pod(obj: Object) -> None:
    spec = section(obj, "spec")
    if spec:
        pod_spec(spec)
        spec.setdefault("enableServiceLinks", True)
        for toleration in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
            _tolerate(spec, toleration)


def _tolerate(spec: Object, key: str) -> None:
    """The five minutes a pod outlives its node's silence, unless it says otherwise itself."""
    present = each(spec, "tolerations")
    if any(item.get("key", key) in ("", key) and item.get("effect", "NoExecute") in ("", "NoExecute") for item in present):
        return
    tolerations = spec.setdefault("tolerations", [])
    if isinstance(tolerations, list):
        tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})


def _service(obj: Object) -> None:
    spec = section(obj, "spec")
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {})
        section(config, "clientIP", make=True).setdefault("timeoutSeconds", 10800)
    kind = spec.setdefault("type", "ClusterIP")
    for port in each(spec, "ports"):
        port.setdefault("protocol", "TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port")
    if kind == "ExternalName":
        return
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def _endpoints(obj: Object) -> None:
    for subset in each(obj, "subsets"):
        for port in each(subset, "ports"):
            port.setdefault("protocol", "TCP")


def _endpoint_slice(obj: Object) -> None:
    for port in each(obj, "ports"):
        port.setdefault("protocol", "TCP")
        port.setdefault("name", "")


def _secret(obj: Object) -> None:
    obj.setdefault("type", "Opaque")
    plain = obj.pop("stringData", None)
    if isinstance(plain, dict) and plain:
        import base64

        data = obj.setdefault("data", {})
        if isinstance(data, dict):
            data.update({key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()})


def _namespace(obj: Object) -> None:
    meta = section(obj, "metadata")
    labels = section(meta, "labels", make=True)
    if meta.get("name"):
        labels["kubernetes.io/metadata.name"] = meta["name"]
    section(obj, "spec", make=True).setdefault("finalizers", ["kubernetes"])
    section(obj, "status", make=True).setdefault("phase", "Active")


def _template(obj: Object) -> Object:
    spec = section(obj, "spec")
    template = section(spec, "template", make=True)
    section(template, "metadata", make=True).setdefault("creationTimestamp", None)
    pod_spec(section(template, "spec"))
    return spec


def _rolling(spec: Object, key: str, surge: int | str, unavailable: int | str) -> None:
    strategy = section(spec, key, make=True)
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = section(strategy, "rollingUpdate", make=True)
        rolling.setdefault("maxUnavailable", unavailable)
        rolling.setdefault("maxSurge", surge)


def _deployment(obj: Object) -> None:
    spec = _template(obj)
    spec.setdefault("replicas", 1)
    _rolling(spec, "strategy", "25%", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)


def _replica_set(obj: Object) -> None:
    _template(obj).setdefault("replicas", 1)


def _daemon_set(obj: Object) -> None:
    spec = _template(obj)
    _rolling(spec, "updateStrategy", 0, 1)
    spec.setdefault("revisionHistoryLimit", 10)


def _node(obj: Object) -> None:
    section(obj, "spec", make=True)


BY_KIND = {
    "Pod": _pod, "Service": _service, "Endpoints": _endpoints, "EndpointSlice": _endpoint_slice, "Secret": _secret,
    "Namespace": _namespace, "Deployment": _deployment, "ReplicaSet": _replica_set, "DaemonSet": _daemon_set, "Node": _node,
}
