"""The priority levels of requests as objects: there from the start, put back, listed by kubectl; what is not heeded is said."""

from __future__ import annotations

import pytest

from minik8s.apiserver.upkeep.flow_objects import flow, level, mended, with_condition
from tests.apiserver.apiprocess import ApiServer
from tests.labs import until

FLOWS, LEVELS = (f"/apis/flowcontrol.apiserver.k8s.io/v1/{plural}" for plural in ("flowschemas", "prioritylevelconfigurations"))


def test_what_was_changed_is_put_back_unless_it_is_somebodys_own() -> None:
    own = {**flow("probes"), "metadata": {"name": "probes"}, "spec": {}}
    assert mended(flow("probes"), flow("probes")) is None
    assert mended({**flow("probes"), "spec": {}}, flow("probes")) == flow("probes")
    assert mended(own, flow("probes")) is None
    mandatory = {**level("exempt"), "metadata": {"name": "exempt"}, "spec": {}}
    assert mended(mandatory, level("exempt")) == {**mandatory, "spec": level("exempt")["spec"]}


def test_a_flow_dangles_while_its_level_is_not_there() -> None:
    lost = with_condition(flow("probes"), set(), "t1")
    assert lost
    assert [(each["status"], each["lastTransitionTime"]) for each in lost["status"]["conditions"]] == [("True", "t1")]
    assert with_condition(lost, set(), "t2") is None
    found = with_condition(lost, {"exempt"}, "t3")
    assert found
    assert [(each["status"], each["lastTransitionTime"]) for each in found["status"]["conditions"]] == [("False", "t3")]


@pytest.mark.etcd
def test_kubectl_lists_and_writes_them(api: ApiServer) -> None:
    until(lambda: api.call("GET", f"{FLOWS}/catch-all").body["status"]["conditions"], what="the last of them, and judged")
    rows = [line.split() for line in api.kubectl("get", "flowschemas").stdout.splitlines()]
    assert rows[0] == ["NAME", "PRIORITYLEVEL", "MATCHINGPRECEDENCE", "DISTINGUISHERMETHOD", "AGE", "MISSINGPL"]
    assert {row[0]: (row[1], row[2], row[3], row[5]) for row in rows[1:]}.items() >= {
        "probes": ("exempt", "2", "<none>", "False"), "catch-all": ("catch-all", "10000", "ByUser", "False"),
        "system-node-high": ("node-high", "400", "ByUser", "False")}.items()
    rows = [line.split() for line in api.kubectl("get", "prioritylevelconfigurations").stdout.splitlines()]
    assert rows[0] == ["NAME", "TYPE", "NOMINALCONCURRENCYSHARES", "QUEUES", "HANDSIZE", "QUEUELENGTHLIMIT", "AGE"]
    assert {row[0]: row[1:6] for row in rows[1:]}.items() >= {
        "exempt": ["Exempt", *["<none>"] * 4], "workload-low": ["Limited", "100", "128", "6", "50"]}.items()
    body = {**flow("probes"), "metadata": {"name": "lost"}}
    body["spec"] = {**body["spec"], "priorityLevelConfiguration": {"name": "nowhere"}}
    made = api.call("POST", FLOWS, body)
    assert made.code == 201
    assert "stored, not acted upon" in made.headers["Warning"]
    until(lambda: api.kubectl("get", "flowschemas", "lost").stdout.split()[-1] == "True", what="that it dangles")
    assert "Limited" in api.kubectl("describe", "prioritylevelconfiguration", "system").stdout
    assert api.call("DELETE", f"{FLOWS}/lost").code == 200


@pytest.mark.etcd
@pytest.mark.parametrize(("path", "spec", "words"), [
    (FLOWS, {"priorityLevelConfiguration": {"name": "a"}, "matchingPrecedence": 10001}, "between 1 and 10000"),
    (FLOWS, {"priorityLevelConfiguration": {"name": "a"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}]}]},
     "at least one of resourceRules and nonResourceRules"),
    (LEVELS, {"type": "Limited"}, "spec.limited: Required"),
    (LEVELS, {"type": "Exempt", "limited": {"limitResponse": {"type": "Reject"}}}, "spec.limited: Forbidden"),
])
def test_what_does_not_make_sense_is_refused(api: ApiServer, path: str, spec: dict[str, object], words: str) -> None:
    refused = api.call("POST", path, {"metadata": {"name": "bad"}, "spec": spec})
    assert refused.code == 422
    assert words in refused.body["message"]
