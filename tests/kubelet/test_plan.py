"""What is decided for a pod, without any runtime: examples, and properties over every state a pod can be in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minik8s.kubelet.plan import (
    CleanUp,
    Kill,
    MakeSandbox,
    RemoveContainer,
    RemoveSandbox,
    Start,
    StopSandbox,
    crash_delay,
    next_delay,
    plan_pod,
)
from minik8s.kubelet.records import CREATED, EXITED, RUNNING, UNKNOWN, Actual, Container, Sandbox, Verdict, View
from minik8s.kubelet.status import pod_status, same_status

NOW = 1_700_000_000.0
Pod = dict[str, Any]


def pod_of(*, policy: str = "Always", init: int = 0, main: int = 1, **meta: Any) -> Pod:
    def spec(name: str) -> dict[str, Any]:
        return {"name": name, "image": "x:1"}

    return {"metadata": {"name": "p", "namespace": "d", "uid": "u", **meta},
            "spec": {"restartPolicy": policy, "initContainers": [spec(f"i{n}") for n in range(init)],
                     "containers": [spec(f"c{n}") for n in range(main)]}, "status": {}}


def box(attempt: int = 0, *, ready: bool = True) -> Sandbox:
    return Sandbox(f"box{attempt}", attempt, ready, NOW - 100, ("10.0.0.1",))


def run_of(name: str, state: str = RUNNING, *, attempt: int = 0, code: int = 0, sandbox: str = "box0", ended: float = NOW,
           delay: float = 0.0) -> Container:
    return Container(f"{name}-{attempt}", name, attempt, sandbox, state, started=ended - 1, finished=ended, exit_code=code,
                     delay=delay)


def test_the_way_up() -> None:
    pod = pod_of(init=1)
    assert plan_pod(pod, Actual(), View(NOW)).ops == (MakeSandbox(0),)
    assert plan_pod(pod, Actual((box(),)), View(NOW)).ops == (Start("i0", 0, "box0"),)
    assert plan_pod(pod, Actual((box(),), (run_of("i0"),)), View(NOW)).ops == ()
    done = run_of("i0", EXITED)
    assert plan_pod(pod, Actual((box(),), (done,)), View(NOW)).ops == (Start("c0", 0, "box0"),)
    assert plan_pod(pod, Actual((box(),), (run_of("c0"), done)), View(NOW)).ops == ()


def test_a_container_to_look_around_runs_once() -> None:
    pod = pod_of(init=1)
    pod["spec"]["ephemeralContainers"] = [{"name": "e", "image": "y"}, {"name": "t", "image": "y", "targetContainerName": "c0"}]
    assert plan_pod(pod, Actual(), View(NOW)).ops == (MakeSandbox(0),)
    assert plan_pod(pod, Actual((box(),)), View(NOW)).ops == (Start("e", 0, "box0"), Start("i0", 0, "box0"))
    there = (run_of("c0"), run_of("i0", EXITED))
    ops = plan_pod(pod, Actual((box(),), (*there, run_of("e", EXITED, code=1))), View(NOW)).ops
    assert ops == (Start("t", 0, "box0", target="c0-0"),)
    done = Actual((box(),), (*there, run_of("e", EXITED, code=1), run_of("t")))
    assert plan_pod(pod, done, View(NOW)).ops == ()
    status = pod_status(pod, done, View(NOW), ("192.0.2.1",))
    assert [(item["name"], list(item["state"]), item["ready"]) for item in status["ephemeralContainerStatuses"]] == [
        ("e", ["terminated"], False), ("t", ["running"], False)]
    assert status["phase"] == "Running"
    pod["status"] = status
    lost = Actual((box(),), there)
    assert plan_pod(pod, lost, View(NOW)).ops == (), "what the runtime forgot is not run again"
    states = [item["state"] for item in pod_status(pod, lost, View(NOW), ("192.0.2.1",))["ephemeralContainerStatuses"]]
    assert [state["terminated"]["reason"] for state in states] == ["Error", "ContainerStatusUnknown"]
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    ops = plan_pod(pod, done, View(NOW)).ops
    assert isinstance(ops[0], Kill)
    assert {run.name for run in ops[0].containers} == {"c0", "t"}


def test_no_sandbox_before_the_network() -> None:
    assert plan_pod(pod_of(), Actual(), View(NOW, network_ready=False)).ops == ()
    pod = pod_of()
    pod["spec"]["hostNetwork"] = True
    assert plan_pod(pod, Actual(), View(NOW, network_ready=False)).ops == (MakeSandbox(0),)


def test_the_first_restart_is_at_once_and_the_next_wait() -> None:
    crashed = run_of("c0", EXITED, code=1)
    plan = plan_pod(pod_of(), Actual((box(),), (crashed,)), View(NOW))
    assert plan.ops == (Start("c0", 1, "box0", 10.0),)
    again = run_of("c0", EXITED, code=1, attempt=1, delay=10.0)
    plan = plan_pod(pod_of(), Actual((box(),), (again,)), View(NOW))
    assert (plan.ops, plan.wake) == ((), NOW + 10)
    assert plan_pod(pod_of(), Actual((box(),), (again,)), View(NOW + 10)).ops == (Start("c0", 2, "box0", 20.0),)


def test_a_long_life_ends_the_crash_loop() -> None:
    run = replace(run_of("c0", EXITED, delay=300.0), started=NOW - 3600)
    assert (crash_delay(run), next_delay(run)) == (0.0, 10.0)
    never_started = Container("x", "c0", 3, "box0", EXITED, created=NOW - 1, finished=NOW, delay=40.0)
    assert crash_delay(never_started) == 40.0


def test_a_lost_sandbox_is_replaced_and_restarts_go_on_counting() -> None:
    dead = Actual((box(ready=False),), (run_of("c0", EXITED, attempt=4),))
    assert plan_pod(pod_of(), dead, View(NOW)).ops == (MakeSandbox(1),)
    remade = Actual((box(1), box(ready=False)), (run_of("c0", EXITED, attempt=4),))
    assert plan_pod(pod_of(), remade, View(NOW)).ops == (Start("c0", 5, "box1"),)
    running = Actual((box(1), box(ready=False)), (run_of("c0", attempt=5, sandbox="box1"), run_of("c0", EXITED, attempt=4)))
    assert plan_pod(pod_of(), running, View(NOW)).ops == (RemoveSandbox("box0"),)


def test_restart_counts_survive_a_runtime_that_forgot_everything() -> None:
    pod = pod_of()
    pod["status"] = {"containerStatuses": [{"name": "c0", "restartCount": 6, "containerID": "containerd://x"}]}
    assert plan_pod(pod, Actual((box(),)), View(NOW)).ops == (Start("c0", 7, "box0"),)


def test_a_condemned_container_is_killed_alone() -> None:
    actual = Actual((box(),), (run_of("c0"), run_of("c1")))
    plan = plan_pod(pod_of(main=2), actual, View(NOW, verdicts={"c0-0": Verdict(failing="sick")}))
    assert plan.ops == (Kill((run_of("c0"),), 30.0, "sick"),)


def test_deletion_in_order() -> None:
    pod = pod_of(deletionTimestamp="x", deletionGracePeriodSeconds=7)
    assert plan_pod(pod, Actual((box(),), (run_of("c0"),)), View(NOW)).ops == (
        Kill((run_of("c0"),), 7.0, "the pod is being deleted"),)
    assert plan_pod(pod, Actual((box(),), (run_of("c0", EXITED),)), View(NOW)).ops == (RemoveSandbox("box0"), CleanUp())
    assert plan_pod(pod, Actual(), View(NOW)).ops == (CleanUp(),)


def test_a_pod_that_is_over_gives_its_network_back_and_stays_down() -> None:
    for policy, code in (("Never", 1), ("OnFailure", 0)):
        over = Actual((box(),), (run_of("c0", EXITED, code=code),))
        assert plan_pod(pod_of(policy=policy), over, View(NOW)).ops == (StopSandbox("box0"),)
        assert plan_pod(pod_of(policy=policy), Actual((box(ready=False),), over.containers), View(NOW)).ops == ()


def test_a_refused_pod_is_left_alone() -> None:
    assert plan_pod(pod_of(), Actual(), View(NOW, refused="x")).ops == ()


def test_time_is_up() -> None:
    pod = pod_of()
    pod["spec"]["activeDeadlineSeconds"] = 60
    pod["status"] = {"startTime": "2023-11-14T22:13:20Z"}
    running = Actual((box(),), (run_of("c0"),))
    assert plan_pod(pod, running, View(NOW + 59)).wake == NOW + 60
    assert isinstance(plan_pod(pod, running, View(NOW + 60)).ops[0], Kill)
    assert pod_status(pod, running, View(NOW + 60), ("1.2.3.4",))["reason"] == "DeadlineExceeded"


pods = st.builds(
    pod_of, policy=st.sampled_from(["Always", "OnFailure", "Never"]), init=st.integers(0, 2), main=st.integers(1, 2),
)
boxes = st.lists(st.booleans(), max_size=2).map(
    lambda flags: tuple(box(n, ready=ready) for n, ready in reversed(list(enumerate(flags)))))
runs = st.lists(st.builds(
    run_of, st.sampled_from(["i0", "i1", "c0", "c1"]), st.sampled_from([CREATED, RUNNING, EXITED, UNKNOWN]),
    attempt=st.integers(0, 3), code=st.sampled_from([0, 1]), sandbox=st.sampled_from(["box0", "box1"]),
    delay=st.sampled_from([0.0, 10.0])), max_size=6, unique_by=lambda run: run.id).map(
        lambda found: tuple(sorted(found, key=lambda run: -run.attempt)))
actuals = st.builds(Actual, boxes, runs)


@settings(max_examples=400, deadline=None)
@given(pods, actuals, st.booleans(), st.booleans())
def test_every_state_has_a_sane_plan(pod: Pod, actual: Actual, gone: bool, deleted: bool) -> None:
    if deleted:
        pod["metadata"]["deletionTimestamp"] = "x"
    plan = plan_pod(pod, actual, View(NOW), gone=gone)
    starts = [op for op in plan.ops if isinstance(op, Start)]
    current = actual.current
    for op in starts:
        assert not gone
        assert not deleted
        assert current
        assert current.ready
        assert op.sandbox == current.id
        assert all(run.attempt < op.attempt for run in actual.containers if run.name == op.name)
        assert not any(run.state == RUNNING and run.name == op.name and run.sandbox == current.id for run in actual.containers)
    assert len({op.name for op in starts}) == len(starts)
    running = {run.id for run in actual.running()}
    assert not any(isinstance(op, RemoveContainer) and op.id in running for op in plan.ops)
    if gone or deleted:
        assert plan.ops
        assert running <= {run.id for op in plan.ops if isinstance(op, Kill) for run in op.containers}
    assert all(op.describe() for op in plan.ops)


@settings(max_examples=300, deadline=None)
@given(pods, actuals)
def test_a_status_is_stable(pod: Pod, actual: Actual) -> None:
    """Once written, the same world gives the same status: no endless writes."""
    first = pod_status(pod, actual, View(NOW), ("1.2.3.4",))
    second = pod_status(pod | {"status": first}, actual, View(NOW + 0.5), ("1.2.3.4",))
    third = pod_status(pod | {"status": second}, actual, View(NOW + 100), ("1.2.3.4",))
    fourth = pod_status(pod | {"status": third}, actual, View(NOW + 200), ("1.2.3.4",))
    assert same_status(third, fourth)
    assert [item["name"] for item in first["containerStatuses"]] == [item["name"] for item in pod["spec"]["containers"]]


@settings(max_examples=300, deadline=None)
@given(pods, actuals, st.sampled_from([0, 1]))
def test_doing_what_is_planned_comes_to_rest(pod: Pod, actual: Actual, code: int) -> None:
    """A runtime where every op works and every container that is meant to end ends: the pod gets there in a few rounds."""
    now = NOW
    for _ in range(30):
        plan = plan_pod(pod, actual, View(now))
        if not plan.ops:
            break
        for op in plan.ops:
            actual = pretend(pod, actual, op, now, code)
        now += 1
    else:
        raise AssertionError(f"never rests: {plan.ops}")


def pretend(pod: Pod, actual: Actual, op: Any, now: float, code: int) -> Actual:
    boxes, runs = actual.sandboxes, actual.containers
    if isinstance(op, MakeSandbox):
        boxes = (Sandbox(f"new{op.attempt}", op.attempt, True, now), *boxes)
    elif isinstance(op, Start):
        ends = op.name.startswith("i") or pod["spec"]["restartPolicy"] != "Always"
        result = 0 if op.name.startswith("i") else code
        made = Container(f"{op.name}-{op.attempt}-new", op.name, op.attempt, op.sandbox, EXITED if ends else RUNNING, started=now,
                         finished=now, exit_code=result, delay=op.delay)
        runs = tuple(sorted((made, *runs), key=lambda run: -run.attempt))
    elif isinstance(op, Kill):
        dead = {run.id for run in op.containers}
        runs = tuple(replace(run, state=EXITED, exit_code=137, finished=now) if run.id in dead else run for run in runs)
    elif isinstance(op, RemoveContainer):
        runs = tuple(run for run in runs if run.id != op.id)
    elif isinstance(op, StopSandbox):
        boxes = tuple(replace(box, ready=False) if box.id == op.id else box for box in boxes)
    elif isinstance(op, RemoveSandbox):
        boxes = tuple(box for box in boxes if box.id != op.id)
        runs = tuple(run for run in runs if run.sandbox != op.id)
    return Actual(boxes, runs)


@pytest.mark.parametrize(("host_ips", "first"), [(("192.168.77.11", "fd00::11"), "10.244.1.2"), (("fd00::11",), "fd00:1::2")])
def test_addresses_of_two_families_the_nodes_own_first(host_ips: tuple[str, ...], first: str) -> None:
    pod = pod_of()
    both = Sandbox("box", 0, ready=True, created=NOW, ips=("10.244.1.2", "fd00:1::2"))
    status = pod_status(pod, Actual((both,)), View(NOW), host_ips)
    assert (status["podIP"], status["podIPs"][0]["ip"], len(status["podIPs"])) == (first, first, 2)
    assert [entry["ip"] for entry in status["hostIPs"]] == list(host_ips)
    pod["spec"]["hostNetwork"] = True
    assert [entry["ip"] for entry in pod_status(pod, Actual((both,)), View(NOW), host_ips)["podIPs"]] == list(host_ips)
