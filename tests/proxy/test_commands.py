"""The commands that only look: rules of files, a packet's fate, kernel against desired."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import yaml
from proxy_net import balanced, endpoints, service

from proxy.__main__ import main

FLAGS = ("--hostname-override", "node-1", "--cluster-cidr", "10.244.0.0/16")
HTTP = (("http", "TCP", 80, 30080),)
TARGETS = (("http", "TCP", 8080),)


def run(name: str, *argv: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """As its own process would: errors as one line, and the exit code."""
    script = ["proxy", name, *argv]
    out, err, stdin = io.StringIO(), io.StringIO(), io.StringIO(given)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", script)
        patch.setattr(sys, "stdin", stdin)
        with pytest.raises(SystemExit) as ended:
            main()
    logging.disable(logging.NOTSET)
    return subprocess.CompletedProcess(script, int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One file of several documents and a List, and one in JSON."""
    directory: Path = tmp_path_factory.mktemp("manifests")
    web = service("web", "10.96.0.10", *HTTP, type="NodePort")
    slices = [endpoints("web", "10.244.1.3", "10.244.2.5", ports=TARGETS), endpoints("local", "10.244.1.4", ports=TARGETS)]
    here = {"kind": "Node", "metadata": {"name": "node-1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "203.0.113.5"}]}}
    many = {"apiVersion": "v1", "kind": "List", "items": [*slices, here]}
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    (directory / "a.yaml").write_text(yaml.safe_dump_all([web, other, many, None]))
    local = balanced(service("local", "10.96.0.11", ("http", "TCP", 80, 0), type="LoadBalancer", externalTrafficPolicy="Local",
                             loadBalancerSourceRanges=["203.0.113.0/24"]), "203.0.113.9")
    empty = service("empty", "10.96.0.12", ("http", "TCP", 80, 0))
    wrong = service("wrong", "10.96.0.13", ("http", "TCP", 70000, 0))
    (directory / "b.json").write_text(json.dumps({"kind": "ServiceList", "apiVersion": "v1", "items": [
        {key: value for key, value in item.items() if key not in ("kind", "apiVersion")} for item in (local, empty, wrong)]}))
    return ["-f", str(directory / "a.yaml"), "-f", str(directory / "b.json"), *FLAGS]


def test_renders_without_a_cluster(files: list[str]) -> None:
    done = run("render", "--mode", "nftables", *files)
    assert done.returncode == 0, done.stderr
    assert "10.96.0.10 . tcp . 80 : goto cluster-2" in done.stdout
    assert "10.96.0.12 . tcp . 80 : goto refuse" in done.stdout
    assert done.stderr.splitlines() == ["Service default/wrong skipped: port 70000 is not between 1 and 65535"]
    assert run("render", "-f", "-", *FLAGS, given=Path(files[1]).read_text()).stdout.count("10.244.1.3 . 8080") == 2


CASES = (
    ("10.96.0.10:80", "10.244.1.9", ["cluster-2", "address is kept", "10.244.2.5:8080", "sees 10.244.1.9"]),
    ("10.96.0.10:80", "192.0.2.1", ["masqueraded", "sees this node's address"]),
    ("10.96.0.10:80", "10.244.1.3", ["10.244.1.3:8080   on this node, sees this node's address"]),
    ("192.168.50.1:30080", "192.0.2.1", ["NodePort of Service default/web", "if 192.168.50.1 is an address of this node"]),
    ("203.0.113.9:80", "203.0.113.7", ["externalTrafficPolicy Local", "10.244.1.4:8080", "sees 203.0.113.7"]),
    ("203.0.113.9:80", "203.0.113.5", ["Local does not count for this node", "masqueraded", "10.244.1.4:8080"]),
    ("203.0.113.9:80", "198.51.100.1", ["loadBalancerSourceRanges", "dropped"]),
    ("10.96.0.12:80", "10.244.1.9", ["no endpoints", "refused"]),
    ("10.96.0.12:81", "10.244.1.9", ["no Service has that port: refused"]),
)


@pytest.mark.parametrize(("destination", "caller", "said"), CASES)
def test_explains(files: list[str], destination: str, caller: str, said: list[str]) -> None:
    done = run("explain", destination, "--from", caller, *files)
    assert done.returncode == 0, done.stderr
    for words in said:
        assert words in done.stdout


@pytest.mark.parametrize(("mode", "rule"), [
    ("iptables", "nat KPY-C-2-0-tcp-80-00a: -d 10.96.0.10 -p tcp -j DNAT --to-destination 10.244.1.3:8080"),
    ("ipvs", "services: 10.96.0.10 . tcp . 80 : goto cluster"),
])
def test_explains_in_the_words_of_the_mode(files: list[str], mode: str, rule: str) -> None:
    done = run("explain", "10.96.0.10:80", "--from", "10.244.1.9", "--mode", mode, *files)
    assert rule in done.stdout, done.stdout + done.stderr


def test_says_what_is_wrong(files: list[str], tmp_path: Path) -> None:
    assert run("explain", "192.0.2.7:80", *files).returncode == 1
    (tmp_path / "bad.yaml").write_text("a: [")
    typed = yaml.safe_dump(service("odd", "10.96.0.14", ("http", "TCP", "eighty", 0)))
    for argv, given, words in (
        (("explain", "10.96.0.10", *files), "", "'10.96.0.10': not ADDRESS:PORT[/PROTOCOL]"),
        (("explain", "[fd00::1]:80", *files), "", "no Service has that address"),
        (("render",), "", "-f: which file?"),
        (("render", "-f", "/nowhere.yaml"), "", "-f: /nowhere.yaml: No such file"),
        (("render", "-f", str(tmp_path / "bad.yaml")), "", "neither JSON nor YAML"),
        (("render", "-f", "-"), typed, "-f: -: Service odd: Expected `int`, got `str`"),
        (("render", "-f", files[1], "--detect-local-mode", "NodeCIDR"), "", "-f: no Node"),
        (("render", "-f", "-"), "kind: List\nitems: 5", "-f: -: List: items is not a list"),
        (("explain", "10.96.0.10:80", "--from", "fd00::1", *files), "", "--from: fd00::1 is not IPv4"),
    ):
        done = run(*argv, given=given)
        assert done.returncode in (1, 2), argv
        assert words in done.stderr + done.stdout


def test_reads_what_people_have() -> None:
    """JSON after JSON, indented by tabs, with what YAML's reader refuses; nulls; names that would move a cursor."""
    smile = service("smile", "10.96.0.20", ("http", "TCP", 80, 0))
    smile["metadata"]["annotations"] = {"mood": "\U0001f600"}
    nulls = {**service("nulls", "10.96.0.21", ("http", "TCP", 80, 0)), "status": None}
    escapes = service("red\x1b[31m\nname", "10.96.0.22", ("http", "TCP", 70000, 0))
    done = run("render", "-f", "-", *FLAGS, given="\n".join(json.dumps(item, indent="\t") for item in (smile, nulls, escapes)))
    assert {f"10.96.0.{last} . tcp . 80 : goto refuse" in done.stdout for last in (20, 21)} == {True}
    assert done.stderr.splitlines() == [r"Service default/red\x1b[31m\nname skipped: port 70000 is not between 1 and 65535"]
    escapes["spec"]["ports"][0]["port"] = 80
    told = run("explain", "10.96.0.22:80", "-f", "-", *FLAGS, given=yaml.safe_dump(escapes)).stdout
    assert r"ClusterIP of Service default/red\x1b[31m\nname" in told
    assert "there is no Service in -" in run("render", "-f", "-", *FLAGS, given="kind: Deployment").stderr


def test_a_family_that_is_not_served_is_told() -> None:
    both = service("both", "10.96.0.23", ("http", "TCP", 80, 0), clusterIPs=["10.96.0.23", "fd96::23"])
    told = "Service default/both skipped: IPv6 is not served: --cluster-cidr names no network of it\n"
    assert run("render", "-f", "-", *FLAGS, given=json.dumps(both)).stderr == told
    done = run("render", "-f", "-", "--cluster-cidr", "", given=json.dumps(both))
    assert ("fd96::23 . tcp . 80" in done.stdout, done.stderr) == (True, "")
