"""The columns of what runs, scales and guards pods, beside deployments and their like. Pure.

Must not know: HTTP. Read next: `cells.py`.
"""

from __future__ import annotations

import datetime
from typing import Any

from minik8s.apiserver.schema.age import human, moment, since
from minik8s.apiserver.schema.cells import (
    NONE,
    WORKLOAD,
    Columns,
    Object,
    age_of,
    label_text,
    layout,
    name_of,
    part,
    selector_text,
    simple,
    template_cells,
)

JOB_STATES = (("FailureTarget", "FailureTarget"), ("Failed", "Failed"), ("Suspended", "Suspended"), ("Complete", "Complete"),
              ("SuccessCriteriaMet", "SuccessCriteriaMet"))


def _controller(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    containers = template_cells(spec)[:2]
    return [name_of(obj), spec.get("replicas", 1), status.get("replicas", 0), status.get("readyReplicas", 0), age_of(obj, now),
            *containers, label_text(spec.get("selector"))]


def _pod_template(obj: Object, now: datetime.datetime) -> list[Any]:
    containers = template_cells(obj)[:2]
    return [name_of(obj), *containers, label_text(part(obj, "template", "metadata", "labels"))]


def _stateful_set(obj: Object, now: datetime.datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    ready = f"{part(obj, 'status', 'readyReplicas') or 0}/{spec.get('replicas', 1)}"
    return [name_of(obj), ready, age_of(obj, now), *template_cells(spec)[:2]]


def _job(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    wanted, done, parallel = spec.get("completions"), status.get("succeeded", 0), spec.get("parallelism") or 0
    open_end = f"1 of {parallel}" if parallel > 1 else "1"
    completions = f"{done}/{open_end if wanted is None else wanted}"
    return [name_of(obj), _job_state(obj), completions, _duration(status, now), age_of(obj, now), *template_cells(spec)]


def _job_state(obj: Object) -> str:
    true = {item.get("type") for item in part(obj, "status", "conditions") or [] if item.get("status") == "True"}
    for kind, shown in (("Complete", "Complete"), ("Failed", "Failed")):
        if kind in true:
            return shown
    if part(obj, "metadata", "deletionTimestamp"):
        return "Terminating"
    return next((shown for kind, shown in JOB_STATES if kind in true), "Running")


def _duration(status: Object, now: datetime.datetime) -> str:
    begun = moment(status.get("startTime"))
    if begun is None:
        return ""
    return human(((moment(status.get("completionTime")) or now) - begun).total_seconds())


def _cron_job(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    last = status.get("lastScheduleTime")
    return [name_of(obj), spec.get("schedule", ""), spec.get("timeZone") or NONE, str(bool(spec.get("suspend"))),
            len(status.get("active") or ()), since(last, now) if last else NONE, age_of(obj, now),
            *template_cells(part(spec, "jobTemplate", "spec") or {})]


def _autoscaler(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    target = spec.get("scaleTargetRef") or {}
    least = spec.get("minReplicas")
    return [name_of(obj), f"{target.get('kind', '')}/{target.get('name', '')}", _targets(spec, status),
            "<unset>" if least is None else str(least), spec.get("maxReplicas", 0), status.get("currentReplicas", 0),
            age_of(obj, now)]


def _targets(spec: Object, status: Object) -> str:
    """`cpu: 20%/50%`, metric by metric; two are shown."""
    if "targetCPUUtilizationPercentage" in spec:
        now = status.get("currentCPUUtilizationPercentage")
        return f"cpu: {'<unknown>' if now is None else f'{now}%'}/{spec['targetCPUUtilizationPercentage']}%"
    current = status.get("currentMetrics") or []
    words = [_metric(metric, current[at] if at < len(current) else {}) for at, metric in enumerate(spec.get("metrics") or [])]
    if not words:
        return NONE
    return ", ".join(words[:2]) + (f" + {len(words) - 2} more..." if len(words) > 2 else "")


def _metric(metric: Object, current: Object) -> str:
    form = metric.get("type", "")
    key = form[:1].lower() + form[1:]
    inner = metric.get(key) or {}
    target, seen = inner.get("target") or {}, part(current, key, "current") or {}
    percent = target.get("averageUtilization")
    if percent is not None:
        value = seen.get("averageUtilization")
        shown = f"{'<unknown>' if value is None else f'{value}%'}/{percent}%"
    else:
        average = target.get("averageValue") is not None
        value = seen.get("averageValue" if average else "value")
        shown = f"{'<unknown>' if value is None else value}/{target.get('averageValue') if average else target.get('value')}"
        shown += " (avg)" if average and form in ("External", "Object") else ""
    return f"{inner.get('name', '')}: {shown}" if form in ("Resource", "ContainerResource") else shown


def _budget(obj: Object) -> list[Any]:
    spec = obj.get("spec") or {}
    least, most = (str(spec[key]) if spec.get(key) is not None else "N/A" for key in ("minAvailable", "maxUnavailable"))
    return [least, most, part(obj, "status", "disruptionsAllowed") or 0]


BUDGET = layout(("Name", "Min Available", "Max Unavailable", "Allowed Disruptions", "Age"), numbers=("Allowed Disruptions",))
KINDS: dict[str, Columns] = {
    "ReplicationController": Columns(layout(
        ("Name", "Desired", "Current", "Ready", "Age"), WORKLOAD, ("Desired", "Current", "Ready")), _controller),
    "PodTemplate": Columns(layout(("Name", "Containers", "Images", "Pod Labels")), _pod_template),
    "StatefulSet": Columns(layout(("Name", "Ready", "Age"), ("Containers", "Images")), _stateful_set),
    "Job": Columns(layout(("Name", "Status", "Completions", "Duration", "Age"), WORKLOAD), _job),
    "CronJob": Columns(layout(
        ("Name", "Schedule", "Timezone", "Suspend", "Active", "Last Schedule", "Age"), WORKLOAD, ("Active",)), _cron_job),
    "HorizontalPodAutoscaler": Columns(layout(
        ("Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"), (), ("MaxPods", "Replicas")), _autoscaler),
    "PodDisruptionBudget": Columns(BUDGET, lambda obj, now: [name_of(obj), *_budget(obj), age_of(obj, now)]),
    "NetworkPolicy": simple("Pod-Selector", lambda obj: [selector_text(part(obj, "spec", "podSelector") or {})]),
    "PriorityClass": Columns(
        layout(("Name", "Value", "Global-Default", "Age", "PreemptionPolicy"), (), ("Value",)),
        lambda obj, now: [name_of(obj), obj.get("value", 0), bool(obj.get("globalDefault")), age_of(obj, now),
                          obj.get("preemptionPolicy") or "PreemptLowerPriority"]),
    "RuntimeClass": simple("Handler", lambda obj: [obj.get("handler", "")]),
}
