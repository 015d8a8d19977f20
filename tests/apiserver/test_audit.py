"""The audit log: what the policy asks for, no more; and the seats that are kept for what a cluster lives by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minik8s.apiserver.auth.authorize import Attributes, User
from minik8s.apiserver.request.audit import Audit, read_policy
from minik8s.apiserver.request.routes import Target
from minik8s.apiserver.request.seats import Seats
from nodecore.errors import UserError
from tests.apiserver.apiprocess import ApiServer
from tests.etcdserver import EtcdServer
from tests.labs import until

POLICY: dict[str, Any] = {"kind": "Policy", "apiVersion": "audit.k8s.io/v1", "rules": [
    {"level": "None", "users": ["system:kube-proxy"]}, {"level": "None", "nonResourceURLs": ["/healthz*", "/readyz*"]},
    {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets", "pods/exec"]}]},
    {"level": "RequestResponse", "verbs": ["create"], "resources": [{"group": "", "resources": ["configmaps"]}]},
    {"level": "Request", "namespaces": ["kube-public"]}, {"level": "Metadata", "userGroups": ["system:unauthenticated"]}]}
SOMEBODY = User("jane", ("staff", "system:authenticated"))


@pytest.fixture
def policy(tmp_path: Path) -> str:
    (tmp_path / "policy").write_text(json.dumps(POLICY))
    return str(tmp_path / "policy")


@pytest.mark.parametrize(("user", "asked", "level"), [
    (User("system:kube-proxy"), Attributes("get", "", "secrets", "a", "b"), 0),
    (SOMEBODY, Attributes("get", path="/healthz/etcd"), 0),
    (SOMEBODY, Attributes("get", "", "secrets", "a", "b"), 1), (SOMEBODY, Attributes("create", "", "pods/exec", "a", "b"), 1),
    (SOMEBODY, Attributes("create", "", "configmaps", "a"), 3), (SOMEBODY, Attributes("update", "", "configmaps", "a", "b"), 0),
    (SOMEBODY, Attributes("update", "", "configmaps", "kube-public", "b"), 2), (SOMEBODY, Attributes("get", path="/metrics"), 0),
    (User("x", ("system:unauthenticated",)), Attributes("get", path="/version"), 1),
])
def test_levels(policy: str, user: User, asked: Attributes, level: int) -> None:
    assert Audit(read_policy(policy), "-").level(user, asked) == level


@pytest.mark.parametrize(("text", "words"), [
    ("{}", "no audit Policy"), ("[", "neither JSON nor YAML"), ('{"kind": "Policy", "rules": [{"level": "All"}]}', "level 'All'"),
    ('{"kind": "Policy", "rules": [{"level": "None", "user": []}]}', "'user' is not known"),
])
def test_wrong_policies(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "p").write_text(text)
    with pytest.raises(UserError, match=words):
        read_policy(str(tmp_path / "p"))


def test_files_turn(policy: str, tmp_path: Path) -> None:
    audit = Audit(read_policy(policy), str(tmp_path / "log"), megabytes=0, backups=2)
    for number in range(5):
        audit.note(SOMEBODY, Attributes("get", "", "secrets", "a", f"s{number}"), "/x", 200, {"source": "", "agent": ""})
    names = {path.name: json.loads(path.read_text())["objectRef"]["name"] for path in tmp_path.glob("log*")}
    assert names == {"log": "s4", "log.1": "s3", "log.2": "s2"}
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0


@pytest.mark.etcd
def test_a_server_writes_it(api_etcd: EtcdServer, policy: str, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    api = ApiServer.start(api_etcd, "--audit-policy-file", policy, "--audit-log-path", str(log))
    try:
        config = {"metadata": {"name": "audited"}, "data": {"k": "v"}}
        api.call("DELETE", "/api/v1/namespaces/default/configmaps/audited")
        assert api.call("POST", "/api/v1/namespaces/default/configmaps", config).code == 201
        assert api.call("GET", "/api/v1/namespaces/default/secrets", user="nobody").code == 403
        assert api.call("GET", "/version", user="").code == 200
        lines = until(lambda: len(found := log.read_text().splitlines()) >= 3 and found, what="three lines")
        events = [json.loads(line) for line in lines]
    finally:
        api.close()
    made, denied, asked = events
    assert (made["level"], made["verb"], made["user"]["username"]) == ("RequestResponse", "create", "admin")
    assert made["requestObject"]["data"] == made["responseObject"]["data"] == {"k": "v"}
    assert (denied["level"], denied["responseStatus"]["code"], denied["objectRef"]) == (
        "Metadata", 403, {"resource": "secrets", "namespace": "default"})
    assert "requestObject" not in denied
    assert asked["user"]["username"] == "system:anonymous"


def test_seats_for_heartbeats() -> None:
    seats, leases, pods = Seats(40), Target("coordination.k8s.io", "v1", "leases"), Target("", "v1", "pods")
    kubelet = User("system:node:n", ("system:nodes",))
    assert sum(seats.take(SOMEBODY, pods) for _ in range(50)) == 15, "half of what is open"
    assert sum(seats.take(User(f"u{number}"), pods) for number in range(50)) == 15
    assert sum(seats.take(kubelet, leases) for _ in range(50)) == 10
    seats.leave(SOMEBODY)
    assert not seats.take(SOMEBODY, pods)
    assert seats.take(kubelet, leases)
    assert not seats.take(kubelet, Target("", "v1", "secrets"))
