"""Rollouts, walked through in every order hypothesis thinks of."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from minik8s.controllers.revisions import REVISION
from minik8s.controllers.rollout import limits
from nodecore.kube.resource import DEPLOYMENTS, REPLICA_SETS
from nodecore.kube.workload import Deployment, RollingUpdate

from .simulation import Simulation, deployment, image

SHARES = st.sampled_from([0, 1, 2, 5, "0%", "10%", "25%", "50%", "100%"])
EVENTS = st.lists(st.tuples(st.sampled_from(["deployment", "set", "ready"]), st.integers(0, 20)), max_size=80)


def current(sim: Simulation) -> Deployment:
    found: Deployment = sim.views(DEPLOYMENTS)[0]
    return found


def sizes(sim: Simulation) -> dict[str, int]:
    return {rs.spec.template["spec"]["containers"][0]["image"]: rs.spec.wanted for rs in sim.views(REPLICA_SETS)}


def settled(replicas: int, **spec: Any) -> Simulation:
    sim = Simulation()
    sim.add(DEPLOYMENTS, deployment(replicas, **spec))
    sim.settle()
    return sim


@settings(max_examples=80, deadline=None)
@given(replicas=st.integers(0, 7), surge=SHARES, unavailable=SHARES, events=EVENTS)
def test_a_rollout_keeps_its_bounds_in_every_order(replicas: int, surge: Any, unavailable: Any, events: Any) -> None:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    most, least = limits(RollingUpdate(surge, unavailable), replicas)
    sim = settled(replicas, strategy={"rollingUpdate": rolling})

    def check() -> None:
        pods = sim.pods()
        assert len(pods) <= replicas + most
        assert sum(pod.ready for pod in pods) >= replicas - least

    sim.change(DEPLOYMENTS, "web", image("b"))
    for event, index in events:
        match event:
            case "deployment":
                sim.step_deployments()
            case "set":
                sim.step_set(index)
            case "ready":
                sim.set_ready(index)
        check()
    for _ in range(200):
        sim.now += 1
        moved = sim.step_all()
        check()
        if not sim.set_ready(0) and not moved:
            break
    assert sizes(sim) == {"a": 0, "b": replicas}
    status = current(sim).status
    assert status.updated_replicas == status.available_replicas == status.replicas == replicas
    progressing = status.condition("Progressing")
    assert progressing is not None
    assert (progressing.status, progressing.reason) == ("True", "NewReplicaSetAvailable")


@settings(max_examples=30, deadline=None)
@given(images=st.lists(st.sampled_from("abcd"), min_size=1, max_size=8), events=EVENTS)
def test_whatever_was_asked_in_between_the_last_template_wins(images: list[str], events: Any) -> None:
    sim = settled(3)
    for name in images:
        sim.change(DEPLOYMENTS, "web", image(name))
        for event, index in events[:10]:
            {"deployment": sim.step_deployments, "set": lambda at=index: sim.step_set(at),
             "ready": lambda at=index: sim.set_ready(at)}[event]()
    sim.settle()
    assert {name: size for name, size in sizes(sim).items() if size} == {images[-1]: 3}
    assert len(sizes(sim)) == len(sim.raw[REPLICA_SETS])


def test_going_back_takes_the_old_set_and_a_new_number() -> None:
    sim = settled(3)
    sim.change(DEPLOYMENTS, "web", image("b"))
    sim.settle()
    sim.change(DEPLOYMENTS, "web", image("a"))
    sim.settle()
    assert sizes(sim) == {"a": 3, "b": 0}
    numbers = {rs.spec.template["spec"]["containers"][0]["image"]: rs.metadata.annotations for rs in sim.views(REPLICA_SETS)}
    assert numbers["a"][REVISION] == "3"
    assert numbers["a"]["deployment.kubernetes.io/revision-history"] == "1"
    assert numbers["b"][REVISION] == "2"
    assert (current(sim).metadata.annotations or {})[REVISION] == "3"


def test_recreate_starts_nothing_before_all_is_gone() -> None:
    sim = settled(3, strategy={"type": "Recreate"})
    sim.change(DEPLOYMENTS, "web", image("b"))
    sim.step_deployments()
    assert sizes(sim) == {"a": 0, "b": 0}
    assert len(sim.pods()) == 3
    sim.step_deployments()
    assert sizes(sim)["b"] == 0
    sim.step_set(0)
    sim.step_set(1)
    sim.step_deployments()
    assert sizes(sim) == {"a": 0, "b": 3}


def test_paused_holds_the_rollout_but_not_the_size() -> None:
    sim = settled(3)
    sim.change(DEPLOYMENTS, "web", {"spec": {"paused": True}})
    sim.change(DEPLOYMENTS, "web", image("b"))
    sim.change(DEPLOYMENTS, "web", {"spec": {"replicas": 5}})
    sim.settle()
    assert sizes(sim) == {"a": 5}
    sim.change(DEPLOYMENTS, "web", {"spec": {"paused": None}})
    sim.settle()
    assert sizes(sim) == {"a": 0, "b": 5}


def test_scaling_in_the_middle_of_a_rollout_keeps_both_sets_and_ends_right() -> None:
    sim = settled(10)
    sim.change(DEPLOYMENTS, "web", image("b"))
    for _ in range(4):
        sim.step_all()
    assert all(sizes(sim).values())
    assert len(sizes(sim)) == 2
    sim.change(DEPLOYMENTS, "web", {"spec": {"replicas": 20}})
    sim.step_deployments()
    assert sum(sizes(sim).values()) == 25
    sim.settle()
    assert sizes(sim) == {"a": 0, "b": 20}


def test_old_sets_are_kept_up_to_the_limit() -> None:
    sim = settled(1, revisionHistoryLimit=2)
    for name in "bcdef":
        sim.change(DEPLOYMENTS, "web", image(name))
        sim.settle()
    assert set(sizes(sim)) == {"d", "e", "f"}


def test_a_rollout_that_stands_still_says_so() -> None:
    sim = settled(2, progressDeadlineSeconds=60)
    sim.change(DEPLOYMENTS, "web", image("b"))
    for _ in range(5):
        sim.step_all()
    sim.now += 61
    sim.step_all()
    progressing = current(sim).status.condition("Progressing")
    assert progressing is not None
    assert (progressing.status, progressing.reason) == ("False", "ProgressDeadlineExceeded")


def test_a_taken_name_is_avoided() -> None:
    sim = Simulation()
    sim.add(DEPLOYMENTS, deployment(1))
    sim.step_deployments()
    body = sim.raw[REPLICA_SETS].popitem()[1]
    body["metadata"] = {"name": body["metadata"]["name"], "labels": {"other": "one"}}
    sim.add(REPLICA_SETS, body)
    sim.settle()
    assert current(sim).status.collision_count == 1
    assert len(sim.raw[REPLICA_SETS]) == 2
    assert len(sim.pods()) >= 1
