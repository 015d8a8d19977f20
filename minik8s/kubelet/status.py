"""A pod's status as the API should show it: pure, from its spec, what the runtime holds and what the probes say.

What others wrote (the scheduler's PodScheduled, an eviction's reason) is kept. Conditions keep their transition time while
their status is the same. Read next: `minik8s/kubelet/container_status.py`, `minik8s/kubelet/status_writer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .container_status import container_status, ephemeral_status
from .plan import active_deadline, over
from .records import Actual, Pod, View, containers_of, deleting, ephemeral_containers_of, finished, init_containers_of
from .resources import qos_class
from .times import stamp

OURS = ("Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers")
Condition = dict[str, Any]


def pod_status(pod: Pod, actual: Actual, view: View, host_ips: tuple[str, ...]) -> dict[str, Any]:
    """The whole `status` of the pod, in place of the one it has."""
    old = pod.get("status") or {}
    told = {item["name"]: item for key in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
            for item in old.get(key) or []}
    init_done = initialized(pod, actual)
    init = [container_status(pod, spec, actual, view, told.get(spec["name"]), init=True, blocked=False)
            for spec in init_containers_of(pod)]
    main = [container_status(pod, spec, actual, view, told.get(spec["name"]), init=False, blocked=not init_done)
            for spec in containers_of(pod)]
    phase, reason, message = _phase(pod, actual, view)
    status = dict(old) | {"phase": phase, "hostIP": host_ips[0], "hostIPs": [{"ip": ip} for ip in host_ips],
                          "qosClass": qos_class(pod), "startTime": old.get("startTime") or stamp(view.now)}
    for key, value in (("reason", reason), ("message", message)):
        if value:
            status[key] = value
    ips = pod_ips(pod, actual, host_ips)
    if ips:
        status |= {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
    elif not _has_run(actual):
        status.pop("podIP", None), status.pop("podIPs", None)
    if init:
        status["initContainerStatuses"] = init
    status["containerStatuses"] = main
    if ephemeral := ephemeral_containers_of(pod):
        status["ephemeralContainerStatuses"] = [ephemeral_status(pod, spec, actual, view, told.get(spec["name"]))
                                                for spec in ephemeral]
    status["conditions"] = _conditions(pod, phase, main, actual, view, init_done=init_done)
    return status


def _has_run(actual: Actual) -> bool:
    return bool(actual.containers)


def pod_ips(pod: Pod, actual: Actual, host_ips: tuple[str, ...]) -> tuple[str, ...]:
    """A pod's addresses, that of the node's own first family first."""
    box = actual.current
    if box is None or not box.ready:
        return ()
    if pod["spec"].get("hostNetwork"):
        return host_ips
    return tuple(sorted(box.ips, key=lambda ip: (":" in ip) != (":" in host_ips[0])))


def initialized(pod: Pod, actual: Actual) -> bool:
    """Whether every init container is done; once a regular container exists they are."""
    if any(actual.latest(spec["name"]) for spec in containers_of(pod)):
        return True
    runs = [actual.latest(spec["name"]) for spec in init_containers_of(pod)]
    return all(run and run.state == "exited" and run.exit_code == 0 for run in runs)


def _phase(pod: Pod, actual: Actual, view: View) -> tuple[str, str, str]:
    old = pod.get("status") or {}
    if finished(pod):
        return old["phase"], "", ""
    deadline = active_deadline(pod)
    if deadline and view.now >= deadline:
        return "Failed", "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
    if over(pod, actual) and not (deleting(pod) and actual.running()):
        runs = [actual.latest(spec["name"]) for spec in containers_of(pod)]
        good = all(run and run.exit_code == 0 for run in runs)
        return ("Succeeded" if good else "Failed"), "", ""
    if initialized(pod, actual) and all(actual.latest(spec["name"]) for spec in containers_of(pod)):
        if deleting(pod) and not actual.running():
            codes = [run.exit_code for spec in containers_of(pod) if (run := actual.latest(spec["name"]))]
            return ("Failed" if any(codes) else "Succeeded"), "", ""
        return "Running", "", ""
    if deleting(pod) and old.get("phase") == "Running":
        return "Running", "", ""
    return "Pending", "", ""


def _conditions(pod: Pod, phase: str, main: list[dict[str, Any]], actual: Actual, view: View, *,
                init_done: bool) -> list[Condition]:
    old = {item["type"]: item for item in (pod.get("status") or {}).get("conditions") or []}
    unready = [item["name"] for item in main if not item["ready"]]
    reason = message = ""
    if phase in ("Succeeded", "Failed"):
        reason = "PodCompleted" if phase == "Succeeded" else "PodFailed"
    elif unready:
        reason, message = "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    ready = not reason
    gates_ok, gates_message = _gates(pod, old)
    box = actual.current
    fresh = [
        _condition("PodReadyToStartContainers", old, view.now, ok=bool(box and box.ready)),
        _condition("Initialized", old, view.now, ok=init_done or phase == "Succeeded",
                   reason="" if init_done else "ContainersNotInitialized",
                   message="" if init_done else _incomplete(pod, actual)),
        _condition("Ready", old, view.now, ok=ready and gates_ok, reason=reason or ("" if gates_ok else "ReadinessGatesNotReady"),
                   message=message or gates_message),
        _condition("ContainersReady", old, view.now, ok=ready, reason=reason, message=message),
    ]
    kept = [item for name, item in old.items() if name not in OURS]
    if "PodScheduled" not in old:
        kept.append(_condition("PodScheduled", old, view.now, ok=True))
    return [*fresh, *kept]


def _gates(pod: Pod, old: Mapping[str, Condition]) -> tuple[bool, str]:
    closed = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []
              if (old.get(gate["conditionType"]) or {}).get("status") != "True"]
    return not closed, f"readiness gates not true: [{' '.join(closed)}]" if closed else ""


def _incomplete(pod: Pod, actual: Actual) -> str:
    def done(name: str) -> bool:
        run = actual.latest(name)
        return run is not None and run.state == "exited" and run.exit_code == 0

    names = [spec["name"] for spec in init_containers_of(pod) if not done(spec["name"])]
    return f"containers with incomplete status: [{' '.join(names)}]"


def _condition(kind: str, old: Mapping[str, Condition], now: float, *, ok: bool, reason: str = "",
               message: str = "") -> Condition:
    status = "True" if ok else "False"
    before = old.get(kind) or {}
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    made: Condition = {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": since or stamp(now)}
    if not ok:
        made |= {key: value for key, value in (("reason", reason), ("message", message)) if value}
    return made


def same_status(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether two statuses say the same, conditions in any order and nulls as good as absent."""
    return bool(_canonical(left) == _canonical(right))


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted_conditions(item) if key == "conditions" else _canonical(item)
                for key, item in value.items() if item is not None and item not in ("", [], {})}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return value


def _sorted_conditions(items: Any) -> Any:
    return sorted((_canonical(item) for item in items or []), key=lambda item: str(item.get("type")))
