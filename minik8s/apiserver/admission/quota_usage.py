"""What an object counts as against a ResourceQuota, by the names `spec.hard` uses. Pure.

Read next: `quota.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from nodecore.kube.quantity import parse_quantity
from nodecore.kube.resource import Resource

Object = dict[str, Any]
SCOPES = ("BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "PriorityClass")
OPERATORS = {"Exists": False, "DoesNotExist": False, "In": True, "NotIn": True}  # whether it takes values
COMPUTE = ("cpu", "memory", "ephemeral-storage")
POD_KEYS = ("pods", "count/pods", *COMPUTE, *(f"{part}.{each}" for part in ("requests", "limits") for each in COMPUTE))
SCOPED = frozenset(POD_KEYS) - {"count/pods"}
COUNTED: dict[str, tuple[str, ...]] = {
    "pods": POD_KEYS, "services": ("services", "count/services", "services.nodeports", "services.loadbalancers"),
    **{name: (name, f"count/{name}") for name in ("configmaps", "secrets", "replicationcontrollers", "resourcequotas")},
    "persistentvolumeclaims": ("persistentvolumeclaims", "count/persistentvolumeclaims", "requests.storage"),
    "serviceaccounts": ("count/serviceaccounts",), "endpoints": ("count/endpoints",),
    **{name: (f"count/{name}.apps",) for name in ("deployments", "replicasets", "statefulsets", "daemonsets")},
    **{name: (f"count/{name}.batch",) for name in ("jobs", "cronjobs")},
    "ingresses": ("count/ingresses.networking.k8s.io",),
}
ONE = Fraction(1)


def usage(resource: Resource, obj: Object) -> dict[str, Fraction]:
    """Every name an object counts under, and how much."""
    if resource.plural == "pods":
        return _pod(obj)
    spec = obj.get("spec") or {}
    full = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
    found = {f"count/{full}": ONE}
    if not resource.group:
        found[resource.plural] = ONE
    if resource.plural == "services":
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            found["services.nodeports"] = Fraction(len(spec.get("ports") or ()))
        if spec.get("type") == "LoadBalancer":
            found["services.loadbalancers"] = ONE
    if resource.plural == "persistentvolumeclaims":
        found["requests.storage"] = parse_quantity(((spec.get("resources") or {}).get("requests") or {}).get("storage") or 0)
    return found


def _pod(pod: Object) -> dict[str, Fraction]:
    found = {"count/pods": ONE}
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return found
    found["pods"] = ONE
    for part in ("requests", "limits"):
        for name in COMPUTE:
            amount = _amount(pod.get("spec") or {}, part, name)
            found[f"{part}.{name}"] = amount
            if part == "requests":
                found[name] = amount
    return found


def _amount(spec: Object, part: str, name: str) -> Fraction:
    def of(container: Object) -> Fraction:
        return parse_quantity(((container.get("resources") or {}).get(part) or {}).get(name) or 0)
    first = max(map(of, spec.get("initContainers") or ()), default=Fraction(0))
    return max(first, sum(map(of, spec.get("containers") or ()), Fraction(0)))


def missing(resource: Resource, obj: Object, hard: Iterable[str]) -> list[str]:
    """The amounts a pod must say because a quota counts them, and does not."""
    if resource.plural != "pods":
        return []
    found = []
    for key in sorted(hard):
        part, _, name = key.rpartition(".")
        if name in ("cpu", "memory") and part in ("", "requests", "limits"):
            part = part or "requests"
            if any(name not in ((each.get("resources") or {}).get(part) or {}) for each in obj["spec"].get("containers") or ()):
                found.append(key)
    return found


def in_scope(quota: Object, obj: Object) -> bool:
    """Whether an object is of the sort a quota counts."""
    wanted = requirements(quota.get("spec") or {})
    if not wanted:
        return True
    spec = obj.get("spec") or {}
    if obj.get("kind") != "Pod":
        return False
    resources = [each.get("resources") or {} for each in spec.get("containers") or ()]
    effort = not any(each.get(part) for each in resources for part in ("requests", "limits"))
    ends = spec.get("activeDeadlineSeconds") is not None
    truth = {"BestEffort": effort, "NotBestEffort": not effort, "Terminating": ends, "NotTerminating": not ends}
    return all(_of_class(spec.get("priorityClassName") or "", operator, values) if scope == "PriorityClass" else
               truth.get(scope, False) for scope, operator, values in wanted)


def _of_class(name: str, operator: str, values: tuple[str, ...]) -> bool:
    """Whether a pod's priority class, if it has one, is such."""
    if operator in ("In", "NotIn"):
        return (name in values) == (operator == "In")
    return bool(name) == (operator == "Exists")


def requirements(spec: Object) -> list[tuple[str, str, tuple[str, ...]]]:
    """The scopes of a quota, each with an operator and its values: those of `scopes` are to exist."""
    chosen = (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    return [(scope, "Exists", ()) for scope in spec.get("scopes") or ()] + [
        (str(each.get("scopeName")), str(each.get("operator")), tuple(each.get("values") or ())) for each in chosen]


def not_kept(spec: Object) -> str:
    """What of a quota's scopes cannot be kept, and why; empty when all can."""
    for scope, operator, values in requirements(spec):
        if scope not in SCOPES:
            return f"scope {scope} is not supported by this server; supported scopes: {', '.join(SCOPES)}"
        if operator not in OPERATORS or (scope != "PriorityClass" and operator != "Exists"):
            return f"scopeSelector: operator {operator} is none for scope {scope}"
        if OPERATORS[operator] != bool(values):
            return f"scopeSelector: operator {operator} takes {'some' if OPERATORS[operator] else 'no'} values"
        for key in spec.get("hard") or {}:
            if key != "pods" and (scope == "BestEffort" or key not in SCOPED):
                return f"spec.hard: {key} cannot be counted by scope {scope}"
    chosen = {scope for scope, _, _ in requirements(spec)}
    for scope in ("BestEffort", "Terminating"):
        if {scope, f"Not{scope}"} <= chosen:
            return f"scopes {scope} and Not{scope} exclude one another"
    return ""


def words(key: str, amount: Fraction) -> str:
    """An amount as `kubectl describe quota` shows it."""
    if amount.denominator == 1:
        whole = int(amount)
        if "memory" in key or "storage" in key:
            for size, unit in ((1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")):
                if whole and whole % size == 0:
                    return f"{whole // size}{unit}"
        return str(whole)
    return f"{-(-(amount * 1000).numerator // (amount * 1000).denominator)}m"
