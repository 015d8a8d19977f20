"""PodDisruptionBudgets: how many of a budget's pods may go right now, which the API server's eviction spends.

    expected   what the pods' controllers are set to; where `minAvailable` is a count, the pods there are
    desired    `minAvailable`, or expected - `maxUnavailable`; percentages count of expected, rounded up
    healthy    ready, not on their way out, not evicted a moment ago
    allowed    healthy - desired

An eviction writes its pod into `disruptedPods`: it stays there until the pod's end is seen, two minutes at most. As evictions
and this controller change one status, every write names the version it rests on.
Must not know: evictions' HTTP. Read next: `scales.py`, `minik8s/apiserver/verbs/eviction.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nodecore.kube.labels import LabelSelector
from nodecore.kube.objects import View
from nodecore.kube.resource import DISRUPTION_BUDGETS
from nodecore.kube.workload import Condition, Meta, OwnerReference, Pod, seconds, stamp

from .ops import Op, Patch, Plan, Raw, Told, involved, soonest
from .rollout import resolve
from .world import Collection

PATIENCE = 120.0
ALLOWED = "DisruptionAllowed"


class ScaledSpec(View, frozen=True):
    """As much of a workload's spec as says how many pods it is set to."""

    replicas: int | None = None


class Scaled(View, frozen=True):
    """A workload that has a number of pods."""

    metadata: Meta = Meta()
    spec: ScaledSpec = ScaledSpec()


class BudgetSpec(View, frozen=True):
    """policy/v1 PodDisruptionBudgetSpec."""

    min_available: int | str | None = None
    max_unavailable: int | str | None = None
    selector: LabelSelector | None = None


class BudgetStatus(View, frozen=True):
    """policy/v1 PodDisruptionBudgetStatus."""

    observed_generation: int = 0
    disrupted_pods: dict[str, str] | None = None
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    expected_pods: int = 0
    conditions: list[Condition] | None = None


class Budget(View, frozen=True):
    """policy/v1 PodDisruptionBudget."""

    metadata: Meta = Meta()
    spec: BudgetSpec = BudgetSpec()
    status: BudgetStatus = BudgetStatus()

    def covers(self, labels: Mapping[str, str] | None) -> bool:
        """Whether a pod with these labels is one of the budget's; without a selector none is."""
        return self.spec.selector is not None and self.spec.selector.matches(labels)


class Unknown(Exception):
    """How many pods there should be cannot be told."""


class Waiting(Exception):
    """How many pods there should be is being asked."""


Find = Callable[[str, OwnerReference], Any]
"""The workload a reference in a namespace names: `None` if it is not there, `Unknown` if its kind has no number of pods,
`Waiting` if that is not known yet."""


def expected_pods(pods: Iterable[Pod], find: Find) -> int:
    """What the controllers of these pods are set to, each counted once; pods of nobody count for nothing."""
    wanted: dict[str, int] = {}
    for pod in pods:
        owner, namespace = pod.metadata.controller, pod.metadata.namespace
        while owner is not None:
            found = find(namespace, owner)
            if found is None or found.metadata.uid != owner.uid:
                break
            above = found.metadata.controller
            if above is None or above.kind != "Deployment":
                wanted[owner.uid] = 1 if found.spec.replicas is None else found.spec.replicas
                break
            owner = above
    return sum(wanted.values())


@dataclass(frozen=True, slots=True)
class _Sum:
    expected: int
    desired: int


def _sum(budget: Budget, pods: Sequence[Pod], find: Find) -> _Sum:
    least, most = budget.spec.min_available, budget.spec.max_unavailable
    if most is None and not isinstance(least, str):
        return _Sum(len(pods), least or 0)
    expected = expected_pods(pods, find)
    if most is not None:
        return _Sum(expected, max(0, expected - resolve(most, expected, up=True)))
    return _Sum(expected, resolve(least, expected, up=True))


def plan_budget(budget: Budget, everyone: Iterable[Pod], find: Find, now: float) -> Plan:
    """The status one budget should have; `everyone` are the pods of its namespace."""
    meta, old = budget.metadata, budget.status
    if meta.deletion_timestamp:
        return Plan()
    pods = [pod for pod in everyone if budget.covers(pod.metadata.labels)]
    going, again = _still_going(old.disrupted_pods or {}, pods, now)
    numbers: Raw
    try:
        found = _sum(budget, pods, find)
    except Waiting:
        return Plan((), again)
    except (Unknown, ValueError) as error:
        numbers = {"disruptionsAllowed": 0}
        told: tuple[Op, ...] = (Told(involved(DISRUPTION_BUDGETS, meta), "CalculateExpectedPodCountFailed",
                                     f"Failed to calculate the number of expected pods: {error}", "Warning"),)
        condition = _condition(old, "False", "SyncFailed", str(error), now)
    else:
        told = ()
        healthy = sum(pod.ready and not pod.metadata.deletion_timestamp and pod.metadata.name not in going for pod in pods)
        allowed = max(0, healthy - found.desired) if found.expected > 0 else 0
        numbers = {"currentHealthy": healthy, "desiredHealthy": found.desired, "expectedPods": found.expected,
                   "disruptionsAllowed": allowed}
        condition = _condition(old, *(("True", "SufficientPods") if allowed else ("False", "InsufficientPods")), "", now)
    change = _change(budget, numbers, going, condition)
    if not change:
        return Plan((), again)
    why = f"{numbers['disruptionsAllowed']} may go"
    write = Patch(DISRUPTION_BUDGETS, meta, {"status": change}, why, subresource="status", version=meta.resource_version)
    return Plan((write, *told), again)


def _still_going(disrupted: Mapping[str, str], pods: Iterable[Pod], now: float) -> tuple[dict[str, str], float | None]:
    """The evicted pods whose end has not been seen yet, and when the next of them is given up on."""
    there = {pod.metadata.name for pod in pods if not pod.metadata.deletion_timestamp}
    left = {name: seconds(at) + PATIENCE - now for name, at in disrupted.items() if name in there}
    going = {name: disrupted[name] for name, wait in left.items() if wait > 0}
    return going, soonest(*(left[name] for name in going))


def _condition(old: BudgetStatus, status: str, reason: str, message: str, now: float) -> Raw:
    before = next((each for each in old.conditions or () if each.type == ALLOWED), None)
    since = before.last_transition_time if before and before.status == status and before.last_transition_time else stamp(now)
    return {"type": ALLOWED, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}


def _change(budget: Budget, numbers: Raw, going: Mapping[str, str], condition: Raw) -> Raw:
    """What of the status is different, as a merge patch; empty if nothing is."""
    old = budget.status
    before = next((each for each in old.conditions or () if each.type == ALLOWED), None)
    known = {"currentHealthy": old.current_healthy, "desiredHealthy": old.desired_healthy, "expectedPods": old.expected_pods,
             "disruptionsAllowed": old.disruptions_allowed}
    same = (old.observed_generation == budget.metadata.generation and going == (old.disrupted_pods or {})
            and all(known[key] == value for key, value in numbers.items()) and before is not None and _raw(before) == condition)
    if same:
        return {}
    kept = [_raw(each) for each in old.conditions or () if each.type != ALLOWED]
    gone = {name: None for name in old.disrupted_pods or {} if name not in going}
    return {**numbers, "observedGeneration": budget.metadata.generation, "disruptedPods": {**going, **gone},
            "conditions": [*kept, condition]}


def _raw(found: Condition) -> Raw:
    return {"type": found.type, "status": found.status, "reason": found.reason, "message": found.message,
            "lastTransitionTime": found.last_transition_time}


class Others(Protocol):
    """The number of pods of kinds that are not among the workloads (`scales.py`)."""

    listeners: list[Callable[[str | None], None]]

    def find(self, namespace: str, owner: OwnerReference) -> Scaled | None:
        """The same as `Find`."""
        ...


class Disruptions:
    """The controller around `plan_budget`; `workloads` are the collections by kind of what has a number of pods."""

    name = "disruption"

    def __init__(self, budgets: Collection[Budget], pods: Collection[Pod], workloads: Mapping[str, Collection[Any]],
                 others: Others | None = None) -> None:
        self.budgets, self.pods, self.workloads, self.others = budgets, pods, workloads, others

    def listen(self, mark: Callable[[str], None]) -> None:
        """A budget's own change marks it, a pod's those that cover it, a workload's all of its namespace."""
        def of_budget(old: Budget | None, new: Budget | None) -> None:
            if new is not None:
                mark(new.metadata.key)

        def of_pod(old: Pod | None, new: Pod | None) -> None:
            for pod in (old, new):
                for budget in self.budgets.within(pod.metadata.namespace) if pod is not None else ():
                    if pod is not None and budget.covers(pod.metadata.labels):
                        mark(budget.metadata.key)

        def of_workload(old: Any, new: Any) -> None:
            if old is None or new is None or old.spec.replicas != new.spec.replicas:
                for budget in self.budgets.within((new or old).metadata.namespace):
                    mark(budget.metadata.key)

        def of_others(namespace: str | None) -> None:
            for budget in self.budgets if namespace is None else self.budgets.within(namespace):
                mark(budget.metadata.key)

        if self.others:
            self.others.listeners.append(of_others)
        self.budgets.listeners.append(of_budget)
        self.pods.listeners.append(of_pod)
        for collection in self.workloads.values():
            collection.listeners.append(of_workload)

    def plan(self, key: str, now: float) -> Plan:
        """The budget's status, nothing once it is gone."""
        budget = self.budgets.get(key)
        return plan_budget(budget, self.pods.within(budget.metadata.namespace), self._find, now) if budget else Plan()

    def _find(self, namespace: str, owner: OwnerReference) -> Any:
        if owner.kind not in self.workloads:
            if self.others:
                return self.others.find(namespace, owner)
            raise Unknown(f"{owner.kind} {owner.name} has no scale")
        return self.workloads[owner.kind].get(f"{namespace}/{owner.name}")
