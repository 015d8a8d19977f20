"""Decisions of the scheduler: never more than a node has, siblings apart, and reasons people know."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minik8s.scheduler.cluster import Cluster, Load, Selecting, requests
from minik8s.scheduler.decide import Bind, Refuse, decide
from nodecore.kube.workload import Node, Pod


def node(name: str, *, cpu: str = "2", memory: str = "4Gi", pods: int = 110, ready: bool = True,
         labels: dict[str, str] | None = None, **spec: Any) -> Node:
    return msgspec.convert({
        "metadata": {"name": name, "labels": labels or {}}, "spec": spec,
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": str(pods)},
                   "conditions": [{"type": "Ready", "status": str(ready)}]}}, Node)


def pod(name: str, *, cpu: str = "", memory: str = "", owner: str = "", labels: dict[str, str] | None = None,
        host_port: int = 0, **spec: Any) -> Pod:
    asked = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}
    ports = [{"containerPort": 80, "hostPort": host_port}] if host_port else []
    refs = [{"uid": owner, "kind": "ReplicaSet", "name": owner, "controller": True}] if owner else []
    return msgspec.convert({
        "metadata": {"name": name, "namespace": "d", "uid": name, "labels": labels or {}, "ownerReferences": refs},
        "spec": {"containers": [{"name": "c", "resources": {"requests": asked}, "ports": ports}], **spec}}, Pod)


def cluster(*nodes: Node) -> Cluster:
    found = Cluster()
    for each in nodes:
        found.set_node(each)
    return found


def places(decisions: list[Bind | Refuse]) -> list[str]:
    return [each.node if isinstance(each, Bind) else "" for each in decisions]


def refusal(found: Cluster, wanted: Pod) -> str:
    decision = decide(found, [wanted])[0]
    assert isinstance(decision, Refuse)
    return decision.message


@settings(max_examples=100, deadline=None)
@given(nodes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 8), st.integers(0, 5)), max_size=5),
       pods=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 4), st.sampled_from([0, 0, 80, 81])), max_size=25),
       rounds=st.integers(1, 3))
def test_nodes_are_never_overcommitted(nodes: Any, pods: Any, rounds: int) -> None:
    found = cluster(*(node(f"n{index}", cpu=f"{cpu}m", memory=f"{memory}Gi", pods=count)
                      for index, (cpu, memory, count) in enumerate(nodes)))
    waiting = [pod(f"p{index}", cpu=f"{cpu}m", memory=f"{memory}Gi", host_port=port, owner="rs")
               for index, (cpu, memory, port) in enumerate(pods)]
    for _ in range(rounds):
        for decision in decide(found, [each for each in waiting if each.metadata.uid not in found.where]):
            if isinstance(decision, Bind):
                found.put(decision.load, decision.node)
    for place in found:
        assert len(place.loads) <= place.allocatable["pods"]
        for name in ("cpu", "memory"):
            total = sum(load.asked.get(name, 0) for load in place.loads.values())
            assert total == place.used.get(name, 0) <= place.allocatable[name]
        ports = [port for load in place.loads.values() for port in load.ports]
        assert len(ports) == len(set(ports))
    refused = [each for each in waiting if each.metadata.uid not in found.where]
    assert all(isinstance(each, Refuse) for each in decide(found, refused))


@pytest.mark.parametrize("busy", ["", "n1", "n2"])
def test_three_replicas_go_to_three_nodes(busy: str) -> None:
    found = cluster(node("n1"), node("n2"), node("n3"))
    for index in range(6 if busy else 0):
        found.put(Load.of(pod(f"x{index}", cpu="200m")), busy)
    assert sorted(places(decide(found, [pod(f"p{index}", owner="rs") for index in range(3)]))) == ["n1", "n2", "n3"]


def test_pods_of_one_service_part_too() -> None:
    found = cluster(node("n1"), node("n2"))
    found.services["d/web"] = msgspec.convert(
        {"metadata": {"name": "web", "namespace": "d"}, "spec": {"selector": {"app": "web"}}}, Selecting)
    labels = {"app": "web"}
    found.put(Load.of(pod("old", labels=labels, owner="rs1")), "n1")
    assert places(decide(found, [pod("new", labels=labels, owner="rs2")])) == ["n2"]


def test_reasons_are_counted_in_the_usual_words() -> None:
    found = cluster(node("n1", cpu="100m"), node("n2", unschedulable=True),
                    node("n3", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]))
    assert refusal(found, pod("p", cpu="1")) == (
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable.")
    assert refusal(Cluster(), pod("p")) == "no nodes available to schedule pods"
    assert refusal(cluster(node("n", pods=0)), pod("p")) == "0/1 nodes are available: 1 Too many pods."
    assert "didn't match Pod's node affinity/selector" in refusal(cluster(node("n")), pod("p", nodeSelector={"a": "b"}))
    assert "not-ready" in refusal(cluster(node("n", ready=False)), pod("p"))
    assert refusal(cluster(node("n")), pod("p", cpu="much")) == "quantity: 'much' is not a quantity such as 100m, 0.5 or 2Gi"


def test_tolerations_selectors_and_affinity_open_nodes() -> None:
    taint = {"key": "k", "value": "v", "effect": "NoSchedule"}
    found = cluster(node("n1", taints=[taint]), node("n2", labels={"disk": "ssd", "n": "5"}, unschedulable=True))
    assert places(decide(found, [pod("p", tolerations=[{"key": "k", "operator": "Equal", "value": "v"}])])) == ["n1"]
    assert places(decide(found, [pod("p", tolerations=[{"operator": "Exists"}], nodeSelector={"disk": "ssd"})])) == ["n2"]
    field = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}
    expression = {"matchExpressions": [{"key": "n", "operator": "Gt", "values": ["4"]}]}
    for term in (field, expression):
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        wanted = pod("p", tolerations=[{"operator": "Exists"}], affinity={"nodeAffinity": required})
        assert places(decide(found, [wanted])) == ["n2"]


def test_init_containers_and_sidecars_count_at_their_peak() -> None:
    def container(cpu: str, **more: Any) -> dict[str, Any]:
        return {"name": "x", "resources": {"requests": {"cpu": cpu}}, **more}

    wanted = pod("p", containers=[container("100m"), container("100m")], overhead={"cpu": "10m"}, initContainers=[
        container("50m", restartPolicy="Always"), container("300m")])
    assert requests(wanted)["cpu"] == 360
    limited = pod("p", containers=[{"name": "c", "resources": {"limits": {"cpu": "1"}}}])
    assert requests(limited)["cpu"] == 1000


def test_an_unanswered_binding_is_repeated_and_not_moved() -> None:
    found = cluster(node("n1", cpu="1"), node("n2", cpu="1"))
    wanted = pod("p", cpu="1")
    found.put(Load.of(wanted), "n1")
    assert places(decide(found, [wanted, pod("q", cpu="1")])) == ["n1", "n2"]


def test_a_node_that_returns_still_has_its_pods() -> None:
    found = cluster(node("n1", cpu="1"))
    found.put(Load.of(pod("p", cpu="1")), "n1")
    found.remove_node("n1")
    found.set_node(node("n1", cpu="1"))
    assert refusal(found, pod("q", cpu="1")) == "0/1 nodes are available: 1 Insufficient cpu."


REQUIRED = {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}


def spread(unsatisfiable: str) -> dict[str, Any]:
    return {"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": unsatisfiable}]}


@pytest.mark.parametrize(("rule", "name"), [
    ({"affinity": {"podAffinity": REQUIRED}}, "required podAffinity"),
    ({"affinity": {"podAntiAffinity": REQUIRED}}, "required podAntiAffinity"),
    (spread("DoNotSchedule"), "topologySpreadConstraints with DoNotSchedule"),
])
def test_a_binding_rule_it_does_not_know_is_refused_by_name(rule: dict[str, Any], name: str) -> None:
    assert f"{name} is not supported by this scheduler" in refusal(cluster(node("n1")), pod("p", **rule))


def test_what_is_only_preferred_may_be_passed_over() -> None:
    assert places(decide(cluster(node("n1")), [pod("p", **spread("ScheduleAnyway"))])) == ["n1"]
