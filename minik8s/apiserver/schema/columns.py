"""kubectl's usual columns, kind by kind: a list of columns and a function from an object to its cells. Pure.

A column's priority 1 is shown with `-o wide` only. The kinds that are not here are in `columns_batch.py`,
`columns_storage.py` and `columns_access.py`.
Must not know: HTTP. Read next: `cells.py`, `podstatus.py`, `age.py`.
"""

from __future__ import annotations

import datetime
from typing import Any

from minik8s.apiserver.schema import columns_access, columns_batch, columns_storage
from minik8s.apiserver.schema.age import since
from minik8s.apiserver.schema.cells import (
    NONE,
    UNKNOWN,
    WORKLOAD,
    Column,
    Columns,
    Object,
    age_of,
    few,
    label_text,
    layout,
    meta_of,
    name_of,
    simple,
    template_cells,
)
from minik8s.apiserver.schema.podstatus import pod_status

ROLE = "node-role.kubernetes.io/"


def _pod(pod: Object, now: datetime.datetime) -> list[Any]:
    spec, status, found = pod.get("spec") or {}, pod.get("status") or {}, pod_status(pod)
    ips = status.get("podIPs") or []
    gates = [gate.get("conditionType") for gate in spec.get("readinessGates") or []]
    true = {item.get("type") for item in status.get("conditions") or [] if item.get("status") == "True"}
    return [
        name_of(pod), f"{found.ready}/{found.total}", found.reason, found.restarts_text(now), age_of(pod, now),
        (ips[0].get("ip") if ips else status.get("podIP")) or NONE, spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE, f"{len(true.intersection(gates))}/{len(gates)}" if gates else NONE,
    ]


def _component(obj: Object, now: datetime.datetime) -> list[Any]:
    found: Object = next((item for item in obj.get("conditions") or [] if item.get("type") == "Healthy"), {})
    word = {"True": "Healthy", "False": "Unhealthy"}.get(found.get("status", ""), "Unknown")
    return [name_of(obj), word, found.get("message", ""), found.get("error", "")]


def _node(node: Object, now: datetime.datetime) -> list[Any]:
    status = node.get("status") or {}
    info = status.get("nodeInfo") or {}
    ready = next((item.get("status") for item in status.get("conditions") or [] if item.get("type") == "Ready"), None)
    words = ["Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"]
    words += ["SchedulingDisabled"] if (node.get("spec") or {}).get("unschedulable") else []
    return [
        name_of(node), ",".join(words), _roles(node), age_of(node, now), info.get("kubeletVersion", ""),
        _address(status, "InternalIP"), _address(status, "ExternalIP"),
        *(info.get(key) or UNKNOWN for key in ("osImage", "kernelVersion", "containerRuntimeVersion")),
    ]


def _roles(node: Object) -> str:
    labels = meta_of(node).get("labels") or {}
    roles = {key.removeprefix(ROLE) for key in labels if key.startswith(ROLE)} | {labels.get("kubernetes.io/role", "")}
    return ",".join(sorted(roles - {""})) or NONE


def _address(status: Object, kind: str) -> str:
    return next((item.get("address", "") for item in status.get("addresses") or [] if item.get("type") == kind), NONE)


def _service(service: Object, now: datetime.datetime) -> list[Any]:
    spec = service.get("spec") or {}
    cluster_ips = spec.get("clusterIPs") or [spec.get("clusterIP")]
    ports = [_service_port(port) for port in spec.get("ports") or []]
    return [
        name_of(service), spec.get("type", "ClusterIP"), cluster_ips[0] or NONE, _external(service),
        ",".join(ports) or NONE, age_of(service, now), label_text(spec.get("selector")),
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
    return [name_of(endpoints), few(places), age_of(endpoints, now)]


def _host_port(ip: str, port: Object) -> str:
    host = f"[{ip}]" if ":" in ip else ip
    return f"{host}:{port['port']}" if "port" in port else ip


def _endpoint_slice(piece: Object, now: datetime.datetime) -> list[Any]:
    ports = [str(port.get("port") or "*") for port in piece.get("ports") or []]
    addresses = [address for endpoint in piece.get("endpoints") or [] for address in endpoint.get("addresses") or []]
    return [
        name_of(piece), piece.get("addressType", ""), few(ports, more=" + {} more...", empty="<unset>"),
        few(addresses, more=" + {} more...", empty="<unset>"), age_of(piece, now),
    ]


def _deployment(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        name_of(obj), f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}", status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0), age_of(obj, now), *template_cells(spec),
    ]


def _replica_set(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        name_of(obj), spec.get("replicas", 1), status.get("replicas", 0), status.get("readyReplicas", 0), age_of(obj, now),
        *template_cells(spec),
    ]


def _daemon_set(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    counts = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable")
    pod = (spec.get("template") or {}).get("spec") or {}
    return [
        name_of(obj), *(status.get(key, 0) for key in counts), label_text(pod.get("nodeSelector")), age_of(obj, now),
        *template_cells(spec),
    ]


def _event(event: Object, now: datetime.datetime) -> list[Any]:
    def either(*names: str) -> Any:
        return next((event[key] for key in names if event.get(key)), None)

    target, source = either("involvedObject", "regarding") or {}, either("source", "deprecatedSource") or {}
    series, first = event.get("series") or {}, either("firstTimestamp", "deprecatedFirstTimestamp", "eventTime")
    last = series.get("lastObservedTime") or either("lastTimestamp", "deprecatedLastTimestamp") or first
    speaker = (source.get("component") or either("reportingComponent", "reportingController"),
               source.get("host") or event.get("reportingInstance"))
    return [
        since(last, now), event.get("type", ""), event.get("reason", ""),
        f"{target.get('kind', '').lower()}/{target.get('name', '')}", target.get("fieldPath", ""),
        ", ".join(filter(None, speaker)), (either("message", "note") or "").strip(), since(first, now),
        series.get("count") or either("count", "deprecatedCount") or 1, name_of(event),
    ]


def _data(obj: Object) -> int:
    return len(obj.get("data") or ()) + len(obj.get("binaryData") or ())


def _controller(obj: Object) -> str:
    """The owner that controls it, as `daemonset.apps/web`."""
    for ref in meta_of(obj).get("ownerReferences") or []:
        if ref.get("controller"):
            group, _, _ = ref.get("apiVersion", "").rpartition("/")
            return f"{ref.get('kind', '').lower()}{'.' if group else ''}{group}/{ref.get('name', '')}"
    return NONE


KINDS: dict[str, Columns] = {
    "Pod": Columns(layout(
        ("Name", "Ready", "Status", "Restarts", "Age"), ("IP", "Node", "Nominated Node", "Readiness Gates")), _pod),
    "Node": Columns(layout(
        ("Name", "Status", "Roles", "Age", "Version"),
        ("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime")), _node),
    "Service": Columns(layout(("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age"), ("Selector",)), _service),
    "Endpoints": Columns(layout(("Name", "Endpoints", "Age")), _endpoints),
    "EndpointSlice": Columns(layout(("Name", "AddressType", "Ports", "Endpoints", "Age")), _endpoint_slice),
    "Deployment": Columns(layout(
        ("Name", "Ready", "Up-to-date", "Available", "Age"), WORKLOAD, ("Up-to-date", "Available")), _deployment),
    "ReplicaSet": Columns(layout(
        ("Name", "Desired", "Current", "Ready", "Age"), WORKLOAD, ("Desired", "Current", "Ready")), _replica_set),
    "DaemonSet": Columns(layout(
        ("Name", "Desired", "Current", "Ready", "Up-to-date", "Available", "Node Selector", "Age"), WORKLOAD,
        ("Desired", "Current", "Ready", "Up-to-date", "Available")), _daemon_set),
    "Event": Columns((
        Column("Last Seen"), Column("Type"), Column("Reason"), Column("Object"), Column("Subobject", priority=1),
        Column("Source", priority=1), Column("Message"), Column("First Seen", priority=1), Column("Count", priority=1),
        Column("Name", priority=1)), _event),
    "ConfigMap": simple("Data", lambda obj: [_data(obj)], ("Data",)),
    "Secret": simple("Type Data", lambda obj: [obj.get("type", "Opaque"), _data(obj)], ("Data",)),
    "ServiceAccount": simple("Secrets", lambda obj: [len(obj.get("secrets") or ())], ("Secrets",)),
    "ComponentStatus": Columns(layout(("Name", "Status", "Message", "Error")), _component),
    "Namespace": simple("Status", lambda obj: [(obj.get("status") or {}).get("phase", "")]),
    "ControllerRevision": simple("Controller Revision", lambda obj: [_controller(obj), obj.get("revision", 0)], ("Revision",)),
    "Lease": simple("Holder", lambda obj: [(obj.get("spec") or {}).get("holderIdentity", "")]),
    **columns_batch.KINDS, **columns_storage.KINDS, **columns_access.KINDS,
}
