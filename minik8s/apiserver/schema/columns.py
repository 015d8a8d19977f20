"""kubectl's usual columns, kind by kind: a list of columns and a function from an object to its cells. Pure.

A column's priority 1 is shown with `-o wide` only. Must not know: HTTP. Read next: `podstatus.py`, `age.py`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from minik8s.apiserver.schema.age import since
from minik8s.apiserver.schema.podstatus import pod_status

Object = dict[str, Any]
NONE, UNKNOWN = "<none>", "<unknown>"
ROLE = "node-role.kubernetes.io/"


class Column(NamedTuple):
    """One column definition."""

    name: str
    type: str = "string"
    priority: int = 0


class Columns(NamedTuple):
    """A kind's columns and how a row is made."""

    columns: tuple[Column, ...]
    cells: Callable[[Object, datetime.datetime], list[Any]]


def _pod(pod: Object, now: datetime.datetime) -> list[Any]:
    spec, status, found = pod.get("spec") or {}, pod.get("status") or {}, pod_status(pod)
    ips = status.get("podIPs") or []
    gates = [gate.get("conditionType") for gate in spec.get("readinessGates") or []]
    true = {item.get("type") for item in status.get("conditions") or [] if item.get("status") == "True"}
    return [
        _name(pod), f"{found.ready}/{found.total}", found.reason, found.restarts_text(now), _age(pod, now),
        (ips[0].get("ip") if ips else status.get("podIP")) or NONE, spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE, f"{len(true.intersection(gates))}/{len(gates)}" if gates else NONE,
    ]


def _node(node: Object, now: datetime.datetime) -> list[Any]:
    status = node.get("status") or {}
    info = status.get("nodeInfo") or {}
    ready = next((item.get("status") for item in status.get("conditions") or [] if item.get("type") == "Ready"), None)
    words = ["Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"]
    words += ["SchedulingDisabled"] if (node.get("spec") or {}).get("unschedulable") else []
    return [
        _name(node), ",".join(words), _roles(node), _age(node, now), info.get("kubeletVersion", ""),
        _address(status, "InternalIP"), _address(status, "ExternalIP"),
        *(info.get(key) or UNKNOWN for key in ("osImage", "kernelVersion", "containerRuntimeVersion")),
    ]


def _roles(node: Object) -> str:
    labels = _meta(node).get("labels") or {}
    roles = {key.removeprefix(ROLE) for key in labels if key.startswith(ROLE)} | {labels.get("kubernetes.io/role", "")}
    return ",".join(sorted(roles - {""})) or NONE


def _address(status: Object, kind: str) -> str:
    return next((item.get("address", "") for item in status.get("addresses") or [] if item.get("type") == kind), NONE)


def _service(service: Object, now: datetime.datetime) -> list[Any]:
    spec = service.get("spec") or {}
    cluster_ips = spec.get("clusterIPs") or [spec.get("clusterIP")]
    ports = [_service_port(port) for port in spec.get("ports") or []]
    return [
        _name(service), spec.get("type", "ClusterIP"), cluster_ips[0] or NONE, _external(service),
        ",".join(ports) or NONE, _age(service, now), _labels(spec.get("selector")),
    ]


def _service_port(port: Object) -> str:
    node = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node}/{port.get('protocol', 'TCP')}"


def _external(service: Object) -> str:
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return spec.get("externalName") or NONE
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    balancers = [item.get("ip") or item.get("hostname") or "" for item in ingress] if spec.get("type") == "LoadBalancer" else []
    shown = [*balancers, *(spec.get("externalIPs") or [])]
    return ",".join(shown) or ("<pending>" if spec.get("type") == "LoadBalancer" else NONE)


def _endpoints(endpoints: Object, now: datetime.datetime) -> list[Any]:
    places = [
        _host_port(address.get("ip", ""), port)
        for subset in endpoints.get("subsets") or []
        for port in subset.get("ports") or [{}]
        for address in subset.get("addresses") or []
    ]
    return [_name(endpoints), _few(places), _age(endpoints, now)]


def _host_port(ip: str, port: Object) -> str:
    host = f"[{ip}]" if ":" in ip else ip
    return f"{host}:{port['port']}" if "port" in port else ip


def _endpoint_slice(piece: Object, now: datetime.datetime) -> list[Any]:
    ports = [str(port.get("port") or "*") for port in piece.get("ports") or []]
    addresses = [address for endpoint in piece.get("endpoints") or [] for address in endpoint.get("addresses") or []]
    return [
        _name(piece), piece.get("addressType", ""), _few(ports, more=" + {} more...", empty="<unset>"),
        _few(addresses, more=" + {} more...", empty="<unset>"), _age(piece, now),
    ]


def _few(words: list[str], *, more: str = " + {} more...", empty: str = NONE) -> str:
    shown = ",".join(words[:3]) or empty
    return shown + (more.format(len(words) - 3) if len(words) > 3 else "")


def _deployment(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        _name(obj), f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}", status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0), _age(obj, now), *_template(spec),
    ]


def _replica_set(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        _name(obj), spec.get("replicas", 1), status.get("replicas", 0), status.get("readyReplicas", 0), _age(obj, now),
        *_template(spec),
    ]


def _daemon_set(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    counts = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable")
    pod = (spec.get("template") or {}).get("spec") or {}
    return [
        _name(obj), *(status.get(key, 0) for key in counts), _labels(pod.get("nodeSelector")), _age(obj, now), *_template(spec),
    ]


def _template(spec: Object) -> list[Any]:
    containers = ((spec.get("template") or {}).get("spec") or {}).get("containers") or []
    names, images = (",".join(item.get(key, "") for item in containers) for key in ("name", "image"))
    return [names, images, _selector(spec.get("selector") or {})]


def _selector(selector: Object) -> str:
    words = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for item in selector.get("matchExpressions") or []:
        key, values = item.get("key", ""), ",".join(sorted(item.get("values") or []))
        forms = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}
        words.append(forms.get(item.get("operator", ""), key))
    return ",".join(words) or NONE


def _event(event: Object, now: datetime.datetime) -> list[Any]:
    target, source, series = (event.get(key) or {} for key in ("involvedObject", "source", "series"))
    first = event.get("firstTimestamp") or event.get("eventTime")
    last = series.get("lastObservedTime") or event.get("lastTimestamp") or first
    speaker = (source.get("component") or event.get("reportingComponent"), source.get("host") or event.get("reportingInstance"))
    return [
        since(last, now), event.get("type", ""), event.get("reason", ""),
        f"{target.get('kind', '').lower()}/{target.get('name', '')}", target.get("fieldPath", ""),
        ", ".join(filter(None, speaker)), (event.get("message") or "").strip(), since(first, now),
        series.get("count") or event.get("count") or 1, _name(event),
    ]


def _data(obj: Object) -> int:
    return len(obj.get("data") or ()) + len(obj.get("binaryData") or ())


def _controller(obj: Object) -> str:
    """The owner that controls it, as `daemonset.apps/web`."""
    for ref in _meta(obj).get("ownerReferences") or []:
        if ref.get("controller"):
            group, _, _ = ref.get("apiVersion", "").rpartition("/")
            return f"{ref.get('kind', '').lower()}{'.' if group else ''}{group}/{ref.get('name', '')}"
    return NONE


def _name(obj: Object) -> str:
    return str(_meta(obj).get("name", ""))


def _age(obj: Object, now: datetime.datetime) -> str:
    return since(_meta(obj).get("creationTimestamp"), now)


def _meta(obj: Object) -> Object:
    return obj.get("metadata") or {}


def _labels(labels: dict[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def _columns(shown: Iterable[str], wide: Iterable[str] = (), numbers: Iterable[str] = ()) -> tuple[Column, ...]:
    kinds = dict.fromkeys(numbers, "integer")
    return (*(Column(name, kinds.get(name, "string")) for name in shown), *(Column(name, priority=1) for name in wide))


def _simple(shown: str, cells: Callable[[Object], list[Any]], numbers: Iterable[str] = ()) -> Columns:
    """Name, the kind's own cells, age."""
    columns = _columns(["Name", *shown.split(), "Age"], numbers=numbers)
    return Columns(columns, lambda obj, now: [_name(obj), *cells(obj), _age(obj, now)])


WORKLOAD = ("Containers", "Images", "Selector")
DEFAULT = Columns(
    (Column("Name"), Column("Created At", "date")), lambda obj, _: [_name(obj), _meta(obj).get("creationTimestamp", "")]
)
KINDS: dict[str, Columns] = {
    "Pod": Columns(_columns(
        ("Name", "Ready", "Status", "Restarts", "Age"), ("IP", "Node", "Nominated Node", "Readiness Gates")), _pod),
    "Node": Columns(_columns(
        ("Name", "Status", "Roles", "Age", "Version"),
        ("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime")), _node),
    "Service": Columns(_columns(("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age"), ("Selector",)), _service),
    "Endpoints": Columns(_columns(("Name", "Endpoints", "Age")), _endpoints),
    "EndpointSlice": Columns(_columns(("Name", "AddressType", "Ports", "Endpoints", "Age")), _endpoint_slice),
    "Deployment": Columns(_columns(
        ("Name", "Ready", "Up-to-date", "Available", "Age"), WORKLOAD, ("Up-to-date", "Available")), _deployment),
    "ReplicaSet": Columns(_columns(
        ("Name", "Desired", "Current", "Ready", "Age"), WORKLOAD, ("Desired", "Current", "Ready")), _replica_set),
    "DaemonSet": Columns(_columns(
        ("Name", "Desired", "Current", "Ready", "Up-to-date", "Available", "Node Selector", "Age"), WORKLOAD,
        ("Desired", "Current", "Ready", "Up-to-date", "Available")), _daemon_set),
    "Event": Columns((
        Column("Last Seen"), Column("Type"), Column("Reason"), Column("Object"), Column("Subobject", priority=1),
        Column("Source", priority=1), Column("Message"), Column("First Seen", priority=1), Column("Count", priority=1),
        Column("Name", priority=1)), _event),
    "ConfigMap": _simple("Data", lambda obj: [_data(obj)], ("Data",)),
    "Secret": _simple("Type Data", lambda obj: [obj.get("type", "Opaque"), _data(obj)], ("Data",)),
    "ServiceAccount": _simple("Secrets", lambda obj: [len(obj.get("secrets") or ())], ("Secrets",)),
    "Namespace": _simple("Status", lambda obj: [(obj.get("status") or {}).get("phase", "")]),
    "ControllerRevision": _simple("Controller Revision", lambda obj: [_controller(obj), obj.get("revision", 0)], ("Revision",)),
    "Lease": _simple("Holder", lambda obj: [(obj.get("spec") or {}).get("holderIdentity", "")]),
}
