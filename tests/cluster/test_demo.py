from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.labs import Lab, until

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]


def test_the_demo_shows_everybody_reaching_every_endpoint_and_a_tunnelled_packet(lab: Lab) -> None:
    shown = lab.run("demo").stdout
    lines = shown.splitlines()
    for client in ("node-1", "node-2", "node-3", "pod on node-1", "pod on node-2", "pod on node-3"):
        row = next(line for line in lines if line.startswith(f"{client}  "))
        counts = [int(word) for word in row.removeprefix(client).split()]
        assert len(counts) == 3
        assert all(counts), row
    assert "VNI 1" in shown
    assert "8472" in shown
    assert "GET / HTTP" in shown


def test_netscope_finds_nothing_wrong_and_explains_every_endpoint(lab: Lab) -> None:
    def sound() -> bool:
        told = lab.run("netscope", "doctor", check=False)
        assert (told.returncode, told.stdout.splitlines()[-1].endswith("3 nodes: 0 findings")) == (0, True), told.stdout
        return True

    until(sound, what="nothing wrong, once what the tests before have done is settled")
    ways = json.loads(lab.run("netscope", "explain", "svc/web", "-o", "json").stdout)
    assert len(ways) == 3
    assert all(len({way["end"] for way in each["ways"]}) == 3 for each in ways)
    rows = [json.loads(line) for line in lab.run("netscope", "flows", "--to", "svc/web", "-o", "json").stdout.splitlines()]
    assert {row["target"] for row in rows} >= {"service/demo/web"}
    assert "LOST" not in lab.run("netscope", "map").stdout


def test_netscope_reaches_nodes_by_the_clusters_own_authentication(lab: Lab, tmp_path: Path) -> None:
    """Through a DaemonSet's pods, by kubectl: what examples/netscope.yaml says, with an image of the lab's."""
    text = (ROOT / "examples/netscope.yaml").read_text()
    netscope = f"env PYTHONPATH={ROOT} {sys.executable} -m netscope"
    for name, value in (("docker.io/library/busybox:1", "lab.local/web:1"), ("-m -n -- netscope", f"-m -n -- {netscope}")):
        assert name in text
        text = text.replace(name, value)
    (tmp_path / "netscope.yaml").write_text(text)
    lab.run("kubectl", "apply", "-f", str(tmp_path / "netscope.yaml"))
    try:
        lab.run("kubectl", "-n", "netscope", "rollout", "status", "daemonset/netscope", "--timeout=120s")
        assert "6 of 6 ways between nodes answer" in lab.run("netscope", "map", "--via", "kubectl").stdout
        told = lab.run("netscope", "capture", "--via", "kubectl", "--seconds", "1", "-w", str(tmp_path / "all.pcapng")).stderr
        assert told.startswith("capturing on 3 nodes")
        assert told.endswith("nothing was lost\n")
    finally:
        lab.run("kubectl", "delete", "-f", str(tmp_path / "netscope.yaml"))


def test_no_process_the_demo_left_behind_is_defunct(lab: Lab) -> None:
    states = "cat /proc/[0-9]*/stat 2>/dev/null | sed 's/ (.*) / /' | cut -d' ' -f2"
    for node in ("node-1", "node-2", "node-3"):
        until(lambda node=node: "Z" not in lab.exec(node, "sh", "-c", states), what=f"no zombie on {node}")


def test_status_lists_every_agent_as_ready(lab: Lab) -> None:
    shown = lab.run("status").stdout
    for agent in ("etcd", "apiserver", "controllers", "scheduler"):
        assert shown.count(f" {agent} ") == 1
    for agent in ("containerd", "flanneld", "proxy", "kubelet", "init"):
        assert shown.count(f" {agent} ") == 3
    assert "exited" not in shown


def test_exec_runs_inside_the_node(lab: Lab) -> None:
    assert lab.run("exec", "node-2", "--", "hostname").stdout.strip() == "node-2"
    assert "192.168.77.12/24" in lab.run("exec", "node-2", "--", "ip", "-br", "addr").stdout


def test_logs_print_what_an_agent_wrote(lab: Lab) -> None:
    assert lab.run("logs", "node-1", "init").returncode == 0
    assert lab.run("logs", "node-3", "flanneld").stdout


def test_agents_at_rest_keep_below_sixty_megabytes(lab: Lab) -> None:
    """At rest is what it comes back to soon after work; the limit is in millions of bytes, the smaller unit."""
    ours = ("flanneld", "proxy", "kubelet", "apiserver", "controllers", "scheduler")

    def too_large() -> dict[str, float]:
        sizes = {
            f"{node} {name}": report["rss"] / 1e6
            for node in ("node-1", "node-2", "node-3") for name, report in lab.services(node).items() if name in ours
        }
        assert len(sizes) == 12
        return {name: size for name, size in sizes.items() if size > 60}

    until(lambda: not too_large(), seconds=120, what="every agent at 60 MB or less")
