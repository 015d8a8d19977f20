"""When a range of ClusterIPs may go: not while an address in it is in use that no other range has."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from minik8s.controllers.ops import Patch
from minik8s.controllers.servicecidr import FINALIZER, GRACE, Range, ServiceRanges, plan_range
from minik8s.controllers.world import Collection
from nodecore.kube.resource import IP_ADDRESSES, SERVICE_CIDRS
from nodecore.kube.workload import Anything, stamp

NOW = 1_000_000.0


def made(*cidrs: str, name: str = "r", going: bool = False, held: bool = True, ready: str = "True") -> Range:
    meta: dict[str, Any] = {"name": name, "resourceVersion": "7", "finalizers": [FINALIZER, "x/y"] if held else ["x/y"]}
    if going:
        meta["deletionTimestamp"] = stamp(NOW)
    condition = {"type": "Ready", "status": ready, "reason": "" if ready == "True" else "Terminating"}
    return msgspec.convert({"metadata": meta, "spec": {"cidrs": list(cidrs)}, "status": {"conditions": [condition]}}, Range)


def bodies(*args: Any) -> list[dict[str, Any]]:
    ops = plan_range(*args).ops
    assert all(isinstance(op, Patch) for op in ops)
    return [op.body for op in ops if isinstance(op, Patch)]


def test_it_is_held_and_ready() -> None:
    assert bodies(made("10.0.0.0/24"), [], ["10.0.0.1"], NOW) == []
    found = bodies(made("10.0.0.0/24", held=False, ready="False"), [], [], NOW)
    assert found[0] == {"metadata": {"finalizers": ["x/y", FINALIZER]}}
    assert found[1]["status"]["conditions"][0]["status"] == "True"


@pytest.mark.parametrize(("others", "addresses", "stays"), [
    ([], ["10.0.0.1"], True), ([], ["10.0.1.1", "fd00::1", "nonsense"], False), ([], [], False),
    (["10.0.0.0/25"], ["10.0.0.1"], False), (["10.0.0.0/25"], ["10.0.0.1", "10.0.0.200"], True),
    (["10.0.0.128/25", "10.0.0.0/25"], ["10.0.0.1", "10.0.0.200"], False),
])
def test_what_holds_it(others: list[str], addresses: list[str], *, stays: bool) -> None:
    going, rest = made("10.0.0.0/24", going=True), [made(cidr, name="other") for cidr in others]
    found = bodies(going, rest, addresses, NOW + GRACE)
    if stays:
        assert found[0]["status"]["conditions"][0]["reason"] == "Terminating"
        assert bodies(made("10.0.0.0/24", going=True, ready="False"), rest, addresses, NOW + GRACE) == []
    else:
        assert found == [{"metadata": {"finalizers": ["x/y"]}}]
        assert plan_range(going, rest, addresses, NOW + 1).again == GRACE - 1
    assert bodies(made("10.0.0.0/24", going=True, held=False), rest, addresses, NOW + GRACE) == []


def test_who_is_looked_at_again() -> None:
    ranges, addresses = Collection(SERVICE_CIDRS, Range), Collection(IP_ADDRESSES, Anything)
    controller, marked = ServiceRanges(ranges, addresses), []
    controller.listen(marked.append)
    ranges.saw("stays", made("10.0.1.0/24", name="stays"), 1)
    ranges.saw("r", made("10.0.0.0/24", going=True), 2)
    address = msgspec.convert({"metadata": {"name": "10.0.0.9", "resourceVersion": "3"}}, Anything)
    addresses.saw("10.0.0.9", address, 3)
    marked.clear()
    assert controller.plan("r", NOW + GRACE).ops[0].describe().endswith("Ready=False")
    addresses.saw("10.0.0.9", None, 4)
    assert marked == ["r"]
    assert "let go" in controller.plan("r", NOW + GRACE).ops[0].describe()
    assert not controller.plan("nobody", NOW).ops
