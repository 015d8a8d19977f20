"""What `up` and `down` leave behind (nothing), what a second `up` does (nothing), and what survives a `kill -9` of `up`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.labs import Lab, new_name, until
from tests.promised import in_time

pytestmark = pytest.mark.cluster

WATCHED = ("/run", "/etc", "/var/lib", "/dev/shm", "/tmp")


def host() -> dict[str, set[str]]:
    """Everything a lab could leave on its host."""
    shown = {
        kind: set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines())
        for kind, argv in {
            "links": ["ip", "-o", "link"], "addresses": ["ip", "-o", "addr"], "routes": ["ip", "route", "show", "table", "all"],
            "rules": ["ip", "rule"], "tables": ["nft", "list", "tables"],
        }.items()
    }
    shown["addresses"] = {line.split("valid_lft")[0] for line in shown["addresses"]}
    shown["mounts"] = set(Path("/proc/self/mounts").read_text().splitlines())
    shown["cgroups"] = {path for path, _, _ in os.walk("/sys/fs/cgroup")}
    shown["files"] = {
        os.path.join(directory, name) for top in WATCHED for directory, _, names in os.walk(top) for name in names
    }
    shown["forwarding"] = {Path("/proc/sys/net/ipv4/ip_forward").read_text()}
    return shown


def traces(name: str) -> set[str]:
    """Processes that carry the lab's name in their command line, environment or control group, or its namespaces' children."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = b" ".join((entry / part).read_bytes() for part in ("cmdline", "environ", "cgroup"))
            except OSError:
                continue
            if f"/{name}/".encode() in text or f"flanneld-py-{name}".encode() in text:
                found.add(f"{entry.name} {text[:80]!r}")
    return found


def test_down_leaves_nothing() -> None:
    lab = Lab(new_name())  # in the usual place below /var/lib
    before, others = host(), set(os.listdir("/tmp"))
    namespaces = namespaces_of_host()
    try:
        lab.up("--nodes", "2")
        assert lab.state.path.exists()
        during = host()
        for kind in ("links", "addresses", "routes", "rules", "tables", "mounts", "forwarding"):
            assert during[kind] == before[kind], kind
        lab.kubectl("create", "deployment", "left", "--image=lab.local/busybox:1", "--replicas=2", "--", "sleep", "1000")
        lab.kubectl("rollout", "status", "deployment/left", "--timeout=240s")
    finally:
        lab.down()
    assert not traces(lab.name)
    after = host()
    for kind, there in before.items():
        assert not {line for line in after[kind] - there if not noise(kind, line, others)}, kind
    until(lambda: namespaces_of_host() <= namespaces, what="no namespace but those there were before")


def noise(kind: str, line: str, others: set[str]) -> bool:
    """Files other programs of this machine write meanwhile, and pytest's own, as the lab that the tests share: those in places
    below /tmp that were there before.
    """
    if kind == "cgroups":
        return "flanneld-py-" not in line
    if kind == "files" and line.startswith("/tmp/") and line.split("/")[2] in others:
        return True
    return kind == "files" and "flanneld" not in line and "containerd" not in line and "kube" not in line


def namespaces_of_host() -> set[str]:
    shown = subprocess.run(["lsns", "--noheadings", "--output", "NS,TYPE"], capture_output=True, text=True, check=True)
    return set(shown.stdout.splitlines())


def test_a_second_up_changes_nothing_and_is_quick(lab: Lab) -> None:
    pids = {node: {name: report["pid"] for name, report in lab.services(node).items()} for node in ("node-1", "node-2", "node-3")}
    config = {path: path.stat().st_mtime_ns for path in lab.state.path.glob("*") if path.is_file()}

    def again() -> float:
        begin = time.monotonic()
        assert "nothing to do" in lab.up().stderr
        return time.monotonic() - begin

    in_time(again, 1.5, "a second `up`")
    assert pids == {node: {name: report["pid"] for name, report in lab.services(node).items()} for node in pids}
    assert config == {path: path.stat().st_mtime_ns for path in lab.state.path.glob("*") if path.is_file()}


@pytest.mark.parametrize("moment", [0.15, 0.4, 1.0, 3.0])
def test_up_recovers_from_its_own_death(fresh_lab: Lab, moment: float) -> None:
    killed = fresh_lab.start("up", "--nodes", "1")
    try:
        killed.wait(moment)
    except subprocess.TimeoutExpired:
        killed.send_signal(signal.SIGKILL)
    killed.communicate()
    fresh_lab.up("--nodes", "1")
    assert fresh_lab.run("status").returncode == 0
    holders = fresh_lab.state.holders()
    assert sorted(holders) == sorted([fresh_lab.state.switch.pid, fresh_lab.state.node("node-1").pid])


@pytest.mark.parametrize("name", ["node-2", "switch"])
def test_up_says_at_once_what_ended_while_it_waited(fresh_lab: Lab, name: str) -> None:
    starting = fresh_lab.start("up", "--nodes", "2")
    nodes = [fresh_lab.state.node(f"node-{number}") for number in (1, 2)]
    until(lambda: all(node.pid for node in nodes), what="it waits for agents")
    os.kill((fresh_lab.state.switch if name == "switch" else nodes[1]).pid, signal.SIGKILL)
    _, error = starting.communicate(timeout=240)
    assert starting.returncode == 1
    assert f"{name} has ended" in error
    fresh_lab.up()


def test_a_node_that_lost_its_power_comes_back_with_its_data(fresh_lab: Lab) -> None:
    fresh_lab.up("--nodes", "1")
    fresh_lab.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    os.kill(fresh_lab.state.node("node-1").pid, signal.SIGKILL)
    until(lambda: not fresh_lab.state.node("node-1").pid)
    assert fresh_lab.run("status", check=False).returncode == 1
    fresh_lab.up()
    assert fresh_lab.get("configmap", "kept")["data"] == {"a": "b"}


def test_two_labs_side_by_side(lab: Lab, fresh_lab: Lab) -> None:
    fresh_lab.up("--nodes", "1")
    assert [item["metadata"]["name"] for item in fresh_lab.get("nodes")["items"]] == ["node-1"]
    assert len(lab.get("nodes")["items"]) == 3
    fresh_lab.down()
    assert lab.run("status").returncode == 0


BAD = [
    (["up", "--pod-cidr", "nonsense"], "--pod-cidr"),
    (["up", "--pod-cidr", "10.244.1.0/16"], "--pod-cidr"),
    (["up", "--pod-cidr", "10.0.0.0/8"], "--service-cidr"),
    (["up", "--pod-cidr", "192.168.0.0/16"], "192.168.77.0/24"),
    (["up", "--pod-cidr", "fd00::/56"], "IPv4"),
    (["up", "--pod-cidr", "10.244.0.0/28"], "too small"),
    (["up", "--backend", "tencent-vpc"], "not supported"),
    (["up", "--backend", "ipsec"], "'ipsec' is not supported: its tunnels take pods' packets alone"),
    (["up", "--backend", "udp", "--families", "dual"], "--backend"),
    (["up", "--families", "ipv5"], "--families"),
    (["up", "--flannel-store", "file"], "--flannel-store"),
    (["up", "--proxy-mode", "ipvs"], "not supported"),
    (["up", "--nodes", "0"], "--nodes"),
    (["up", "--nodes", "21"], "--nodes"),
    (["up", "--nodes", "x"], "--nodes"),
    (["up", "--etcd-members", "2"], "--etcd-members"),
    (["up", "--api-port", "70000"], "--api-port"),
    (["up", "--unknown"], "--unknown"),
    (["status"], "no lab called"),
    (["exec", "node-9", "--", "true"], "no lab called"),
    (["bench", "nothing"], "no measurement"),
]


@pytest.mark.parametrize(("argv", "named"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, argv: list[str], named: str) -> None:
    lab = Lab(new_name(), tmp_path)
    done = lab.run(*argv, check=False)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not lab.state.path.exists()


def test_a_pod_network_the_host_has_a_route_to_is_refused(tmp_path: Path) -> None:
    routes = [line.split()[0] for line in subprocess.run(
        ["ip", "-4", "route"], capture_output=True, text=True, check=True).stdout.splitlines() if not line.startswith("default")]
    if not routes:
        pytest.skip("the host has no route but the default one")
    network = routes[0].split("/")[0].rsplit(".", 2)[0] + ".0.0/16"
    done = Lab(new_name(), tmp_path).run("up", "--pod-cidr", network, check=False)
    assert done.returncode == 2
    assert "route" in done.stderr


def test_a_bad_name_is_refused(tmp_path: Path) -> None:
    done = Lab("../x", tmp_path).run("up", check=False)
    assert done.returncode == 2
    assert "--name" in done.stderr


def test_a_port_in_use_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        lab = Lab(new_name(), tmp_path)
        done = lab.run("up", "--api-port", str(taken.getsockname()[1]), check=False)
    assert done.returncode == 2
    assert "--api-port" in done.stderr
    assert not lab.state.path.exists()


def test_without_root_it_says_so() -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", str(Path(__file__).parents[2] / "lab"), "up"],
        capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "root" in done.stderr


def test_an_option_that_contradicts_the_running_lab_is_refused(lab: Lab) -> None:
    done = lab.run("up", "--nodes", "5", check=False)
    assert done.returncode == 2
    assert "--nodes" in done.stderr
