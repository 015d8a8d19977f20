"""The kubelet's other decisions: environment, resources, probes, logs, volumes' files, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minik8s.kubelet.container_config import Run, container_config, runs_as_root
from minik8s.kubelet.environment import Sources, environment, expand, resource_value
from minik8s.kubelet.images import auths_for, policy_of
from minik8s.kubelet.log_lines import LogOptions, Renderer, last_lines, parse_entry
from minik8s.kubelet.logs import stream_log
from minik8s.kubelet.probe_state import LIVENESS, READINESS, STARTUP, Count, Timing, first_count, verdict
from minik8s.kubelet.resources import cpu_shares, linux_resources, oom_score, qos_class
from minik8s.kubelet.sandbox_config import NodeSettings, dns_config, sandbox_config
from minik8s.kubelet.server import log_options, stream_flags, trusted
from minik8s.kubelet.times import micro_stamp, seconds_of, stamp
from minik8s.kubelet.unsupported import unsupported
from minik8s.kubelet.volume_files import volume_files
from minik8s.kubelet.volumes import write_atomically
from nodecore.errors import Invalid

NODE = NodeSettings("n1", ("192.168.77.1",), cgroup_root="/lab", capacity={"memory": 1000, "cpu": 4})


def pod_of(spec: dict[str, Any] | None = None, **container: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"app": "x"}},
            "spec": {"containers": [{"name": "c", "image": "x:1", **container}], **(spec or {})}}


@pytest.mark.parametrize(("text", "expanded"), [
    ("$(A)-$(B)", "1-$(B)"), ("$$(A)", "$(A)"), ("$A $", "$A $"), ("$(A", "$(A"), ("a$(A)$(A)", "a11"),
])
def test_expansion(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


def test_environment_sees_what_came_before() -> None:
    pod = pod_of(envFrom=[{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "no", "optional": True}}], env=[
        {"name": "B", "value": "$(P_a)!"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "O", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": True}}}])
    found = environment(pod, pod["spec"]["containers"][0], Sources({"m": {"a": b"1"}}))
    assert found == {"P_a": "1", "B": "1!", "N": "x"}
    missing = pod_of(env=[{"name": "O", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k"}}}])
    with pytest.raises(Invalid, match='secret "no" not found'):
        environment(missing, missing["spec"]["containers"][0], Sources())


def test_resource_field() -> None:
    pod = pod_of(resources={"limits": {"cpu": "1500m", "memory": "1Gi"}})
    spec = pod["spec"]["containers"][0]
    assert resource_value(pod, spec, {"resource": "limits.cpu"}, Sources()) == "2"
    assert resource_value(pod, spec, {"resource": "limits.cpu", "divisor": "1m"}, Sources()) == "1500"
    assert resource_value(pod, spec, {"resource": "requests.memory", "divisor": "1Mi"}, Sources()) == "1024"
    node = Sources(node_capacity={"ephemeral-storage": 9})
    assert resource_value(pod, spec, {"resource": "limits.ephemeral-storage"}, node) == "9"


def test_resources() -> None:
    assert (cpu_shares(0), cpu_shares(100), cpu_shares(10**9)) == (2, 102, 262_144)
    assert qos_class(pod_of()) == "BestEffort"
    assert qos_class(pod_of(resources={"requests": {"cpu": "1"}})) == "Burstable"
    guaranteed = pod_of(resources={"limits": {"cpu": "1", "memory": "1Mi"}})
    assert qos_class(guaranteed) == "Guaranteed"
    made = linux_resources(guaranteed, guaranteed["spec"]["containers"][0], 1000)
    assert made == {"cpu_period": 100_000, "cpu_shares": 1024, "cpu_quota": 100_000, "memory_limit_in_bytes": 1 << 20,
                    "oom_score_adj": -997}
    assert oom_score(pod_of(resources={"requests": {"memory": "500"}}), 500, 1000) == 500


def test_sandbox_and_container_configs() -> None:
    pod = pod_of({"securityContext": {"runAsUser": 5, "fsGroup": 7}, "hostname": "h"}, command=["echo", "$(A)"],
                 ports=[{"containerPort": 80, "hostPort": 8080}],
                 securityContext={"capabilities": {"add": ["NET_ADMIN"]}, "allowPrivilegeEscalation": False})
    box = sandbox_config(pod, NODE, 2)
    assert box["linux"]["cgroup_parent"] == "/lab/kubepods/podu"
    assert box["port_mappings"] == [{"protocol": 0, "container_port": 80, "host_port": 8080, "host_ip": ""}]
    assert (box["hostname"], box["metadata"]["attempt"]) == ("h", 2)
    made = container_config(pod, pod["spec"]["containers"][0], NODE, Run(3, 20.0, "sha", "/w"), {"A": "1"}, [])
    security = made["linux"]["security_context"]
    assert made["command"] == ["echo", "1"]
    assert made["log_path"] == "c/3.log"
    assert security["run_as_user"] == {"value": 5}
    assert security["supplemental_groups"] == [7]
    assert security["no_new_privs"]
    assert "/proc/kcore" in security["masked_paths"]


def test_dns() -> None:
    node = NodeSettings("n", ("1.1.1.1",), cluster_dns=("10.96.0.10",))
    assert dns_config(pod_of(), NODE) == {}
    assert dns_config(pod_of(), node)["servers"] == ["10.96.0.10"]
    assert dns_config(pod_of(), node)["searches"][0] == "d.svc.cluster.local"
    assert dns_config(pod_of({"hostNetwork": True}), node) == {}
    own = pod_of({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "options": [{"name": "ndots", "value": "1"}]}})
    assert dns_config(own, node) == {"servers": ["9.9.9.9"], "options": ["ndots:1"]}


def test_non_root() -> None:
    spec = {"securityContext": {"runAsNonRoot": True}}
    assert runs_as_root(pod_of(), spec, 0, "")
    assert runs_as_root(pod_of(), spec, None, "web").startswith("container has runAsNonRoot and image has non-numeric user (web)")
    assert not runs_as_root(pod_of(), spec, 1000, "")
    assert not runs_as_root(pod_of(), {}, 0, "")


@pytest.mark.parametrize(("spec", "word"), [
    ({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}, "volume v of type persistentVolumeClaim"),
    ({"volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "t"}}]}}]}, "clusterTrustBundle"),
    ({"runtimeClassName": "kata"}, "spec.runtimeClassName"), ({"hostUsers": False}, "spec.hostUsers=false"),
    ({"initContainers": [{"name": "side", "restartPolicy": "Always"}]}, "restartPolicy of init container side"),
    ({"containers": [{"name": "c", "livenessProbe": {"grpc": {"port": 1}}}]}, "livenessProbe of container c"),
])
def test_refusals(spec: dict[str, Any], word: str) -> None:
    assert word in unsupported(pod_of(spec))
    assert unsupported(pod_of({"volumes": [{"name": "e", "emptyDir": {}}, {"name": "default"}]})) == ""


def test_probe_counting() -> None:
    timing = Timing.of({"failureThreshold": 2, "successThreshold": 2})
    count = first_count(READINESS, was_ready=False, was_started=False)
    count = count.after(timing, ok=True, message="")
    assert not count.holds
    count = count.after(timing, ok=True, message="")
    assert count.holds
    count = count.after(timing, ok=False, message="x")
    assert count.holds
    assert not count.after(timing, ok=False, message="x").holds


def test_verdicts() -> None:
    assert verdict("c", {STARTUP: Count(False)}).started is False
    assert verdict("c", {LIVENESS: Count(False, condemned="dead")}).failing == "Container c failed liveness probe: dead"
    assert verdict("c", {READINESS: Count(False)}).failing == ""


STAMP = "2026-11-21T04:27:08.123456789Z"


def test_log_records() -> None:
    entry = parse_entry(f"{STAMP} stdout P par".encode() + b"t\n")
    assert entry
    assert (entry.text, entry.whole, entry.stream) == (b"part", False, "stdout")
    assert parse_entry(b"garbage\n") is None
    renderer = Renderer(LogOptions(timestamps=True))
    pieces = [f"{STAMP} stdout P long ".encode(), f"{STAMP} stdout F line".encode()]
    assert b"".join(renderer.render(piece + b"\n") for piece in pieces) == f"{STAMP} long line\n".encode()


@given(st.lists(st.sampled_from(["P", "F"]), max_size=20), st.integers(0, 6))
def test_last_lines_are_whole_lines(tags: list[str], count: int) -> None:
    records = [f"{STAMP} stdout {tag} {number}\n".encode() for number, tag in enumerate(tags)]
    whole = b"".join(Renderer(LogOptions()).render(record) for record in records)
    found = b"".join(Renderer(LogOptions()).render(record) for record in last_lines(iter(records), count))
    lines = whole.splitlines(keepends=True)
    assert found == (b"".join(lines[-count:]) if count else b"")


async def test_a_tail_longer_than_one_read(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"".join(f"{STAMP} stdout F {number:0100}\n".encode() for number in range(20_000)))
    text = b"".join([piece async for piece in stream_log(path, LogOptions(tail_lines=9_000), lambda: False)])
    lines = text.splitlines()
    assert (len(lines), int(lines[0]), int(lines[-1])) == (9_000, 11_000, 19_999)


def test_times() -> None:
    assert stamp(0) == "1970-01-01T00:00:00Z"
    assert micro_stamp(1.5) == "1970-01-01T00:00:01.500000Z"
    assert seconds_of(STAMP) == seconds_of("2026-11-21T05:27:08.123456+01:00")
    assert seconds_of("1970-01-01T00:00:09Z") == 9


def test_server_queries() -> None:
    flags = stream_flags({"tty": "1", "input": "true", "error": "1"})
    assert flags == {"tty": True, "stdin": True, "stdout": False, "stderr": False}
    with pytest.raises(Invalid, match="at least 1"):
        stream_flags({})
    with pytest.raises(Invalid, match="tailLines"):
        log_options({"tailLines": "-1"})
    assert trusted({"subject": ((("commonName", "kube-apiserver-kubelet-client"),),)})
    assert not trusted({"subject": ((("commonName", "system:node:n1"),),)})
    assert not trusted(None)


def test_image_policies_and_pull_secrets() -> None:
    assert [policy_of({"image": image}) for image in ("a", "a:latest", "a:1", "r:5000/a", "a@sha256:1")] == [
        "Always", "Always", "IfNotPresent", "Always", "IfNotPresent"]
    config = b'{"auths": {"https://r.io/v2": {"auth": "dTpw"}, "other.io": {"username": "x"}}}'
    assert auths_for("r.io/a:1", [config, b"not json"]) == [{"username": "u", "password": "p"}]


def test_volume_files_and_their_atomic_change(tmp_path: Path) -> None:
    volume = {"name": "v", "projected": {"sources": [
        {"configMap": {"name": "m"}}, {"downwardAPI": {"items": [{"path": "d/n", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}
    files = volume_files(pod_of(), volume, Sources({"m": {"a": b"1", "b": b"2"}}))
    assert write_atomically(tmp_path, files)
    assert not write_atomically(tmp_path, files)
    assert {name: (tmp_path / name).read_text() for name in ("a", "b", "d/n")} == {"a": "1", "b": "2", "d/n": "p"}
    assert write_atomically(tmp_path, {"a": (b"9", 0o600)})
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("..")) == ["a"]
    assert len([path for path in tmp_path.glob("..*") if path.is_dir() and not path.is_symlink()]) == 1
    with pytest.raises(Invalid, match="leads out"):
        volume_files(pod_of(), {"name": "v", "configMap": {"name": "m", "items": [{"key": "a", "path": "../x"}]}},
                     Sources({"m": {"a": b""}}))
