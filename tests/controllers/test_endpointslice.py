"""EndpointSlices: always right, and changed no more than needed."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from minik8s.controllers.endpoints import SelectingService, addresses
from minik8s.controllers.endpointslice import Slice, plan_slices, subsets
from minik8s.controllers.ops import Create, Delete, Patch
from nodecore.kube.workload import Pod


def service(**spec: Any) -> SelectingService:
    ports = [{"name": "http", "port": 80, "targetPort": "web"}]
    body = {"selector": {"app": "web"}, "ports": ports, "clusterIP": "10.0.0.1", **spec}
    return msgspec.convert({"metadata": {"name": "web", "namespace": "d", "uid": "s"}, "spec": body}, SelectingService)


def pod(number: int, *, port: int = 8080, ready: bool = True, terminating: bool = False, **more: Any) -> Pod:
    meta = {"name": f"p{number}", "namespace": "d", "uid": f"u{number}", "labels": {"app": "web"},
            **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if terminating else {})}
    return msgspec.convert({
        "metadata": meta, "spec": {"nodeName": f"n{number % 3}", "containers": [
            {"name": "c", "ports": [{"name": "web", "containerPort": port}]}], **more},
        "status": {"phase": "Running", "podIP": f"10.1.{number // 250}.{number % 250}",
                   "conditions": [{"type": "Ready", "status": str(ready)}]}}, Pod)


def carry_out(slices: dict[str, Slice], ops: Any) -> dict[str, Slice]:
    after = dict(slices)
    for op in ops:
        if isinstance(op, Create):
            assert op.body["metadata"]["name"] not in after
            after[op.body["metadata"]["name"]] = msgspec.convert(op.body, Slice)
        elif isinstance(op, Delete):
            del after[op.meta.name]
        elif isinstance(op, Patch):
            old = after[op.meta.name]
            after[op.meta.name] = msgspec.structs.replace(old, endpoints=op.body["endpoints"], ports=op.body["ports"])
    return after


def held(slices: dict[str, Slice]) -> dict[str, tuple[str, Any]]:
    return {raw["addresses"][0]: (name, raw) for name, each in slices.items() for raw in each.endpoints or []}


PODS = st.dictionaries(st.integers(0, 400), st.tuples(st.sampled_from([8080, 8080, 8080, 9090]), st.booleans(), st.booleans()))


@settings(max_examples=60, deadline=None)
@given(history=st.lists(PODS, min_size=1, max_size=4), crowd=st.integers(0, 250))
def test_slices_hold_exactly_what_is_wanted_and_nothing_moves(history: list[Any], crowd: int) -> None:
    slices: dict[str, Slice] = {}
    for round_number, state in enumerate(history):
        pods = [pod(number, port=port, ready=ready, terminating=gone) for number, (port, ready, gone) in state.items()]
        pods += [pod(1000 + number) for number in range(crowd)]
        wanted = addresses(service(), pods, {})
        before = held(slices)
        ops = plan_slices(service(), wanted, slices.values(), float(round_number)).ops
        after = carry_out(slices, ops)
        assert {ip: raw for ip, (_, raw) in held(after).items()} == {each.ip: each.raw() for each in wanted}
        assert all(len(each.endpoints or []) <= 100 for each in after.values())
        ports = {each.ip: each.ports for each in wanted}
        for ip, (name, _) in held(after).items():
            if ip in before and name in after and before[ip][0] in after and [
                    port.raw() for port in ports[ip]] == slices[before[ip][0]].ports:
                assert before[ip][0] == name, "an endpoint moved"
        assert not plan_slices(service(), wanted, after.values(), 99.0).ops
        slices = after


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 350), index=st.integers(0, 349))
def test_one_change_writes_one_slice(count: int, index: int) -> None:
    pods = [pod(number) for number in range(count)]
    slices = carry_out({}, plan_slices(service(), addresses(service(), pods, {}), [], 0.0).ops)
    assert len(slices) == -(-count // 100)
    pods[index % count] = pod(index % count, ready=False)
    assert len(plan_slices(service(), addresses(service(), pods, {}), slices.values(), 1.0).ops) == 1
    more = [*pods, pod(500)]
    assert len(plan_slices(service(), addresses(service(), more, {}), slices.values(), 1.0).ops) <= 2


def test_conditions_tell_ready_serving_and_terminating() -> None:
    pods = [pod(1), pod(2, ready=False), pod(3, terminating=True), pod(4, ready=False, terminating=True)]
    found = {each.pod: (each.ready, each.serving, each.terminating) for each in addresses(service(), pods, {})}
    assert found == {"p1": (True, True, False), "p2": (False, False, False),
                     "p3": (False, True, True), "p4": (False, False, True)}
    everyone = addresses(service(publishNotReadyAddresses=True), pods, {})
    assert all(each.ready for each in everyone)
    assert subsets(addresses(service(), pods, {})) == [{
        "addresses": [{"ip": "10.1.0.1", "nodeName": "n1", "targetRef": {
            "kind": "Pod", "namespace": "d", "name": "p1", "uid": "u1"}}],
        "notReadyAddresses": [{"ip": "10.1.0.2", "nodeName": "n2", "targetRef": {
            "kind": "Pod", "namespace": "d", "name": "p2", "uid": "u2"}}],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]}]


def test_a_headless_service_names_its_pods() -> None:
    headless = service(clusterIP="None", ports=[])
    wanted = addresses(headless, [pod(1, hostname="one", subdomain="web")], {"n1": "z"})
    made = plan_slices(headless, wanted, [], 0.0).ops[0]
    assert isinstance(made, Create)
    assert made.body["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
    assert made.body["endpoints"][0]["hostname"] == "one"
    assert made.body["endpoints"][0]["zone"] == "z"
    assert made.body["ports"] == []
