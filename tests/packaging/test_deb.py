"""The Debian packages in a clean Debian under systemd: installed, upgraded and downgraded under traffic, purged."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minik8s.lab import debian
from tests import nspawn
from tests.nspawn import Machine

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
NETWORK = ("flanneld-py", "kube-proxy-py")
ALL = (*NETWORK, "minik8s", "netscope")
SERVICE = "https://10.96.0.1/readyz"
CALLS = f'while sleep 0.05; do curl -sk -m 20 -o /dev/null -w "%{{http_code}} %{{time_connect}}\\n" {SERVICE}; done'


def build(output: Path, wheels: Path, *words: str) -> None:
    done = subprocess.run([sys.executable, "packaging/deb/build.py", "--output", str(output), "--wheels", str(wheels), *words],
                          cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture(scope="module")
def machines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    """Two Debians that have the packages' files, in a version and the next one, and nothing of the checkout."""
    nspawn.require(request)
    dist, wheels = tmp_path_factory.mktemp("dist"), debian.wheels()
    build(dist, wheels)
    build(dist, wheels, "--version", "0.1.0-2", *NETWORK)
    with nspawn.site(tmp_path_factory.mktemp("site")) as site:
        found = site.machine(checkout=False), site.machine(checkout=False)
        for machine in found:
            shutil.copytree(dist, machine.place / "upper/debs")
            machine.boot()
            machine.run("systemctl enable --now containerd")
        yield found


def files_of(machine: Machine) -> set[str]:
    """Everything where packages and services put things."""
    said = machine.run("find /etc /usr/bin /usr/lib /var/lib /var/cache /opt -xdev ! -type d "
                       "! -path '*/dpkg/*' ! -path '*/apt/*' ! -path '*/containerd/*' "
                       "! -path '*/systemd/*' ! -path '/etc/kubernetes/*' ! -name '*.pyc'")
    return set(said.splitlines())


def test_packages(machines: tuple[Machine, Machine]) -> None:
    server, agent = machines
    before = files_of(server)
    for machine in machines:
        machine.run("dpkg -i /debs/*_0.1.0-1_*.deb", seconds=300)
    assert server.run("systemctl list-units --no-legend 'minik8s*' '*-py*'") == ""
    for name in ALL:
        assert "Usage" in server.run(f"{name} --help")
    service = "kind: Service\\nmetadata: {name: a}\\nspec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\\n"
    assert "10.96.0.10" in server.run(f"printf 'apiVersion: v1\\n{service}' | kube-proxy-py render -f -"), "YAML is read"
    assert "/usr/lib/flanneld-py/" in server.run("head -1 /usr/lib/cni/flannel")

    said = server.run("minik8s install server")
    assert "/etc/systemd/system" not in said
    assert "/usr/lib/cni" not in said
    agent.run(f"minik8s install agent {server.run('minik8s token create').strip().removeprefix('minik8s join')}")
    running = "systemctl is-active minik8s-kubelet && systemctl is-active flanneld-py && systemctl is-active kube-proxy-py"
    for machine in machines:
        machine.until(running, seconds=120)
    there = server.run("ip -4 -o addr show flannel.1").split()[3].partition("/")[0]
    agent.until(f"ping -c1 -W1 {there}")

    agent.until(f"curl -fsk {SERVICE}")
    agent.run("echo FLANNELD_V=1 >>/etc/flanneld-py/flanneld-py.env")
    for unit, command in (("pings", f"ping -i 0.05 {there}"), ("calls", f"bash -c '{CALLS}'")):
        agent.run(f"systemd-run -q --unit={unit} -p StandardOutput=file:/tmp/{unit} {command}")
    for version in ("0.1.0-2", "0.1.0-1"):
        old = [agent.run(f"systemctl show -P MainPID {unit}").strip() for unit in NETWORK]
        agent.run("dpkg -i " + " ".join(f"/debs/{name}_{version}_*.deb" for name in NETWORK), seconds=300)
        for unit, pid in zip(NETWORK, old, strict=True):
            agent.until(f"systemctl is-active {unit} && test $(systemctl show -P MainPID {unit}) != {pid}")
        assert version in agent.run("dpkg-query -W flanneld-py")
    agent.run("systemctl kill --signal=INT pings; sleep 1")
    assert ", 0% packet loss" in agent.run("cat /tmp/pings")
    calls = [line.split() for line in agent.run("systemctl stop calls; cat /tmp/calls").splitlines()[:-1]]
    assert len(calls) > 20
    assert {code for code, _ in calls} == {"200"}
    assert max(float(connected) for _, connected in calls) < 0.9, "a first packet that is lost is sent again after a second"
    assert "FLANNELD_V=1" in agent.run("cat /etc/flanneld-py/flanneld-py.env")

    agent.run("minik8s uninstall; dpkg -P minik8s flanneld-py", seconds=300)
    agent.run("test -d /etc/flanneld-py/keys")  # without it kube-proxy-py would not start: it is a credential of both
    server.run("minik8s uninstall --purge; dpkg -P minik8s netscope kube-proxy-py flanneld-py", seconds=300)
    assert server.run("systemctl list-units --no-legend 'minik8s*' '*-py*'") == ""
    assert files_of(server) - before - {"/etc/.updated", "/var/.updated"} == set()
