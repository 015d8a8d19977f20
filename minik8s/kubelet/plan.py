"""What to do next for one pod: pure, from its spec and what the runtime holds.

    gone from the API, or being deleted   kill -> remove sandboxes -> clean up -> (API) delete
    over (Succeeded, Failed)              stop its sandbox, keep its containers for their logs
    refused                               nothing
    otherwise                             sandbox -> init containers one by one -> containers, restarts after their delay;
                                          ephemeral containers as soon as there is a sandbox, and once only

A restart is a new run of the container (`attempt + 1`) after `crash_delay`; that delay is written on the run itself, so a
kubelet that comes back knows where the series stands. Must not know: CRI, the API. Read next: `minik8s/kubelet/worker.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .records import (
    CREATED,
    EXITED,
    RUNNING,
    UNKNOWN,
    Actual,
    Container,
    Pod,
    Sandbox,
    Verdict,
    View,
    containers_of,
    deleting,
    ephemeral_containers_of,
    finished,
    init_containers_of,
    restart_policy,
)
from .times import seconds_of

FIRST_DELAY, LONGEST_DELAY = 10.0, 300.0
HEALTHY_AFTER = 600.0
GRACE_OF_THE_VANISHED = 2.0


@dataclass(frozen=True, slots=True)
class MakeSandbox:
    """Make the pod's namespaces and network."""

    attempt: int

    def describe(self) -> str:
        """In words."""
        return f"make sandbox {self.attempt}"


@dataclass(frozen=True, slots=True)
class Start:
    """Make and start one run of a container."""

    name: str
    attempt: int
    sandbox: str
    delay: float = 0.0
    target: str = ""
    """The id of the container whose processes this one shall see."""

    def describe(self) -> str:
        """In words."""
        return f"start {self.name} (run {self.attempt})"


@dataclass(frozen=True, slots=True)
class Kill:
    """Stop running containers together, each with its preStop hook, all within `grace` seconds."""

    containers: tuple[Container, ...]
    grace: float
    why: str

    def describe(self) -> str:
        """In words."""
        return f"kill {', '.join(item.name for item in self.containers)} within {self.grace:g} s: {self.why}"


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Forget a container that is over, or that was made and never started."""

    id: str
    name: str

    def describe(self) -> str:
        """In words."""
        return f"remove a run of {self.name}"


@dataclass(frozen=True, slots=True)
class StopSandbox:
    """End a sandbox and its network, keep its containers' records."""

    id: str

    def describe(self) -> str:
        """In words."""
        return f"stop sandbox {self.id[:12]}"


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    """Stop and forget a sandbox with all its containers."""

    id: str

    def describe(self) -> str:
        """In words."""
        return f"remove sandbox {self.id[:12]}"


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Remove the pod's volumes, cgroups and, where it is gone from the API, its logs; then tell the API."""

    def describe(self) -> str:
        """In words."""
        return "clean up"


PodOp = MakeSandbox | Start | Kill | RemoveContainer | StopSandbox | RemoveSandbox | CleanUp


@dataclass(frozen=True, slots=True)
class Plan:
    """The ops to do now, and when to look again even if nothing happens (None = not before something does)."""

    ops: tuple[PodOp, ...] = ()
    wake: float | None = None


def plan_pod(pod: Pod, actual: Actual, view: View, *, gone: bool = False) -> Plan:
    """The next ops for a pod; `gone` = the API no longer has it."""
    if gone or deleting(pod):
        return _teardown(actual, GRACE_OF_THE_VANISHED if gone else deletion_grace(pod))
    if finished(pod) or over(pod, actual):
        return _retire(actual)
    if view.refused:
        return Plan()
    deadline = active_deadline(pod)
    if deadline and view.now >= deadline:
        return _retire(actual)
    plan = _run(pod, actual, view)
    if deadline:
        return Plan(plan.ops, min(plan.wake or deadline, deadline))
    return plan


def deletion_grace(pod: Pod) -> float:
    """Seconds the pod's containers get to end once its deletion was asked for."""
    given = pod["metadata"].get("deletionGracePeriodSeconds")
    if given is None:
        given = pod["spec"].get("terminationGracePeriodSeconds")
    return float(30 if given is None else given)


def active_deadline(pod: Pod) -> float | None:
    """The moment (epoch seconds) the pod is out of time, where it has such a limit and has started."""
    limit = pod["spec"].get("activeDeadlineSeconds")
    start = (pod.get("status") or {}).get("startTime")
    return seconds_of(start) + float(limit) if limit and start else None


def _teardown(actual: Actual, grace: float) -> Plan:
    running = actual.running()
    if running:
        return Plan((Kill(running, grace, "the pod is being deleted"),))
    return Plan((*(RemoveSandbox(box.id) for box in actual.sandboxes), *_strays(actual), CleanUp()))


def _strays(actual: Actual) -> list[PodOp]:
    """Containers whose sandbox record is lost: removing the sandboxes does not take them along."""
    boxes = {box.id for box in actual.sandboxes}
    return [RemoveContainer(item.id, item.name) for item in actual.containers if item.sandbox not in boxes]


def _retire(actual: Actual) -> Plan:
    running = actual.running()
    if running:
        return Plan((Kill(running, 30.0, "the pod is over"),))
    return Plan(tuple(StopSandbox(box.id) for box in actual.sandboxes if box.ready))


def over(pod: Pod, actual: Actual) -> bool:
    """Whether every container of the pod has ended for good."""
    policy = restart_policy(pod)
    if policy == "Always":
        return False
    for spec in init_containers_of(pod):
        run = actual.latest(spec["name"])
        if run and run.state == EXITED and run.exit_code != 0 and policy == "Never" and not _begun(pod, actual):
            return True
    return all(_ended(actual.latest(spec["name"]), policy) for spec in containers_of(pod))


def _begun(pod: Pod, actual: Actual) -> bool:
    return any(actual.latest(spec["name"]) for spec in containers_of(pod))


def _ended(run: Container | None, policy: str) -> bool:
    return policy != "Always" and run is not None and run.state == EXITED and (policy == "Never" or run.exit_code == 0)


def _run(pod: Pod, actual: Actual, view: View) -> Plan:
    box = actual.current
    if box is None or not box.ready:
        return _new_sandbox(pod, actual, view)
    unclear = [item for item in actual.containers if item.state == UNKNOWN]
    if unclear:
        return Plan((Kill(tuple(unclear), 1.0, "the runtime lost track of it"),))
    never_started = [item for item in actual.containers if item.state == CREATED]
    if never_started:
        return Plan(tuple(RemoveContainer(item.id, item.name) for item in never_started))
    plan = _next_init(pod, actual, box, view) or _main(pod, actual, box, view)
    return Plan((*_ephemeral(pod, actual, box), *plan.ops), plan.wake)


def _ephemeral(pod: Pod, actual: Actual, box: Sandbox) -> list[PodOp]:
    """Those that never ran; one that shall see another container's processes waits for that to run."""
    ops: list[PodOp] = []
    told = {item["name"] for item in (pod.get("status") or {}).get("ephemeralContainerStatuses") or [] if item.get("containerID")}
    for spec in ephemeral_containers_of(pod):
        if actual.latest(spec["name"]) or spec["name"] in told:
            continue
        target = _in(box, actual.latest(spec.get("targetContainerName") or ""))
        if not spec.get("targetContainerName"):
            ops.append(Start(spec["name"], 0, box.id))
        elif target and target.state == RUNNING:
            ops.append(Start(spec["name"], 0, box.id, target=target.id))
    return ops


def _new_sandbox(pod: Pod, actual: Actual, view: View) -> Plan:
    running = actual.running()
    if running:
        return Plan((Kill(running, deletion_grace(pod), "its sandbox is gone"),))
    if not view.network_ready and not pod["spec"].get("hostNetwork"):
        return Plan()
    attempt = actual.sandboxes[0].attempt + 1 if actual.sandboxes else 0
    return Plan((MakeSandbox(attempt),))


def _in(box: Sandbox, run: Container | None) -> Container | None:
    return run if run and run.sandbox == box.id else None


def _next_init(pod: Pod, actual: Actual, box: Sandbox, view: View) -> Plan | None:
    """The plan while init containers are at it; None when they are all done."""
    if any(_in(box, actual.latest(spec["name"])) for spec in containers_of(pod)):
        return None
    for spec in init_containers_of(pod):
        run = _in(box, actual.latest(spec["name"]))
        if run is None:
            return Plan((_start(pod, actual, spec, box, 0.0),))
        if run.state == RUNNING:
            return Plan(wake=soon(run, view.now))
        if run.exit_code != 0:
            if restart_policy(pod) == "Never":
                return Plan()
            return _restart(pod, actual, spec, box, run, view)
    return None


def _main(pod: Pod, actual: Actual, box: Sandbox, view: View) -> Plan:
    ops: list[PodOp] = []
    wakes: list[float] = []
    for spec in containers_of(pod):
        run = _in(box, actual.latest(spec["name"]))
        if run is None:
            if not _ended(actual.latest(spec["name"]), restart_policy(pod)):
                ops.append(_start(pod, actual, spec, box, 0.0))
        elif run.state == RUNNING:
            failing = view.verdicts.get(run.id, Verdict()).failing
            if failing:
                ops.append(Kill((run,), probe_grace(pod, spec), failing))
            elif restart_policy(pod) != "Always":
                wakes.append(soon(run, view.now))
        elif not _ended(run, restart_policy(pod)):
            one = _restart(pod, actual, spec, box, run, view)
            ops += one.ops
            wakes += [one.wake] if one.wake else []
    return Plan((*ops, *_superfluous(pod, actual, box)), min(wakes, default=None))


def soon(run: Container, now: float) -> float:
    """When to look at a container that is meant to end: often while it is young, rarely later."""
    return now + min(30.0, max(0.15, (now - run.started) / 4))


def probe_grace(pod: Pod, spec: dict[str, Any]) -> float:
    """Seconds a container gets to end when a probe condemned it."""
    for kind in ("livenessProbe", "startupProbe"):
        given = (spec.get(kind) or {}).get("terminationGracePeriodSeconds")
        if given is not None:
            return float(given)
    given = pod["spec"].get("terminationGracePeriodSeconds")
    return float(30 if given is None else given)


def _restart(pod: Pod, actual: Actual, spec: dict[str, Any], box: Sandbox, run: Container, view: View) -> Plan:
    due = restart_due(run)
    if view.now < due:
        return Plan(wake=due)
    return Plan((_start(pod, actual, spec, box, next_delay(run)),))


def _start(pod: Pod, actual: Actual, spec: dict[str, Any], box: Sandbox, delay: float) -> Start:
    """The next run; its number goes on from what the runtime holds or what the API remembers."""
    run = actual.latest(spec["name"])
    if run:
        return Start(spec["name"], run.attempt + 1, box.id, delay)
    told = [item for key in ("containerStatuses", "initContainerStatuses") for item in (pod.get("status") or {}).get(key) or []]
    counts = [int(item.get("restartCount", 0)) + 1 for item in told if item["name"] == spec["name"] and item.get("containerID")]
    return Start(spec["name"], max(counts, default=0), box.id, delay)


def crash_delay(run: Container) -> float:
    """Seconds to wait after a run's end: none after the first or a long one, then 10, 20, 40 ... 300."""
    if run.finished - (run.started or run.created) >= HEALTHY_AFTER:
        return 0.0
    return run.delay


def restart_due(run: Container) -> float:
    """When a run that ended may be followed by the next."""
    return run.finished + crash_delay(run)


def next_delay(run: Container) -> float:
    """The delay the run after this one is marked with."""
    return min(LONGEST_DELAY, max(FIRST_DELAY, 2 * crash_delay(run)))


def _superfluous(pod: Pod, actual: Actual, box: Sandbox) -> list[PodOp]:
    """Older runs than the last but one, and sandboxes the pod has left behind."""
    ops: list[PodOp] = []
    for name in {item.name for item in actual.containers}:
        runs = [item for item in actual.containers if item.name == name]
        ops += [RemoveContainer(item.id, item.name) for item in runs[2:] if item.state == EXITED]
    if all(_in(box, actual.latest(spec["name"])) for spec in containers_of(pod)):
        ops += [RemoveSandbox(old.id) for old in actual.sandboxes if old.id != box.id]
    return ops
