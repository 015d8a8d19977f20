"""`lab vms`: two machines of Vagrant's, made by one `vagrant up` and looked at; then what only machines show: a cable pulled,
a panic, a clock that is off, what a card does; at last they are rebooted, halted and taken away.

The first test is the one of `./lab test` (`minik8s/lab/testing.py`); where nothing can be booted it is skipped, and says why.
With all others it is most of an hour in software. With VMS_STATE the machines there are looked at, and left as they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minik8s.lab import box, debian, vms, vmtest
from nodecore.errors import UserError
from tests.vm import kernels

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(2400)]
BOOT_SECONDS = 120
FIRST, NODE = "node1", "node2"
BYTES = 20_000_000
ROOT = Path(__file__).parents[2]


def left() -> list[str]:
    """What a cluster could leave on this machine."""
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [*sorted(line.split()[0] for line in links), *Path("/proc/self/mounts").read_text().splitlines()]


@pytest.fixture(scope="module")
def state(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if "VMS_STATE" in os.environ:  # machines that are there, and stay
        yield vms.Vms.here().path
        return
    if "vm" not in request.config.getoption("-m"):
        pytest.skip("boots two virtual machines, minutes in software: ./lab test -m vm")
    try:
        vms.check()
        box.prepare(print, box=True)
    except UserError as error:
        pytest.skip(f"no virtual machines here: {error}")
    if reason := not_booting():
        pytest.skip(reason)
    before, path = left(), tmp_path_factory.mktemp("vagrant") / "vms"
    yield path
    lab(path, "down")
    assert left() == before


def not_booting() -> str:
    """Why no machine runs here; empty where the box's kernel comes as far as to miss its disk."""
    kernel = max((debian.cache() / "root/boot").glob("vmlinuz-*"))
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "qemu64", "-m", "256", "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-nic", "none", "-serial", "stdio",
            "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              timeout=BOOT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no virtual machines here: QEMU did not boot a kernel within {BOOT_SECONDS} s"
    if b"Unable to mount root" in done.stdout:
        return ""
    return f"no virtual machines here: QEMU boots no kernel: {done.stdout[-300:].decode(errors='replace')}"


def lab(state: Path, *words: str, seconds: float = 900) -> str:
    """Run `lab vms`; what it said, which must end well."""
    done = subprocess.run([sys.executable, "-m", "minik8s.lab", "vms", *words], cwd=ROOT, check=False, text=True, timeout=seconds,
                          env={**os.environ, "VMS_STATE": str(state)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    print(done.stdout, flush=True)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def cluster(state: Path) -> vms.Vms:
    if "VMS_STATE" not in os.environ:
        lab(state, "up")
    return vms.Vms(state)


def all_is_well(cluster: vms.Vms) -> None:
    """Wait until every node is ready and reaches the pods of all."""
    took = vmtest.wait_for("all as before", lambda: vmtest.not_ready(cluster) or vmtest.unanswered(cluster), vmtest.PATIENCE)
    print(f"{took:6.1f} s  until all was as before", flush=True)


def test_one_vagrant_up_is_a_cluster(state: Path) -> None:
    assert "the Service hello was answered by the pods of node" in lab(state, "up")
    lab(state, "test")
    assert "packages installed" not in lab(state, "up")  # nothing was to be done


def test_a_cable_pulled_and_plugged_in_again(cluster: vms.Vms) -> None:
    before = vmtest.subnet(cluster, NODE)
    cable = next(line.split()[0] for line in cluster.run("virsh", "domiflist", f"vagrant_{NODE}").splitlines()
                 if "flanneld-py" in line)
    cluster.run("virsh", "domif-setlink", f"vagrant_{NODE}", cable, "down")
    try:
        vmtest.wait_for("it is missed", lambda: "" if vmtest.not_ready(cluster) == NODE else "it is not", vmtest.PATIENCE)
        vmtest.wait_for("the others go on without it", lambda: only_itself(cluster, FIRST), vmtest.PATIENCE)
    finally:
        cluster.run("virsh", "domif-setlink", f"vagrant_{NODE}", cable, "up")
    all_is_well(cluster)
    assert vmtest.subnet(cluster, NODE) == before


def only_itself(cluster: vms.Vms, node: str) -> str:
    """Whoever else answered a node, or that nobody did, one time of many."""
    pages = cluster.ssh(node, f"for i in $(seq {vmtest.FETCHES}); do curl -sS --max-time 5 {vmtest.SERVICE} 2>&1; echo; done")
    others = [page for page in pages.splitlines() if page.strip() and f"node={node}" not in page]
    return " ".join(others)


def test_a_kernel_panics(cluster: vms.Vms) -> None:
    took = vmtest.rebooted(cluster, NODE, "sh -c \"(sleep 1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &\"")
    print(f"{took:6.1f} s  from its ssh until all was as before", flush=True)


@pytest.mark.parametrize(("node", "seconds"), [(NODE, 600), (NODE, -600), (FIRST, 600)])
def test_a_clock_is_ten_minutes_off(cluster: vms.Vms, node: str, seconds: int) -> None:
    """Certificates, leases, heartbeats: every connection of that node is made anew, with a new pod."""
    turn_clock(cluster, node, seconds)
    try:
        cluster.ssh(node, "systemctl restart flanneld-py kube-proxy-py minik8s-kubelet", seconds=vmtest.PATIENCE)
        pod = next(each["metadata"]["name"] for each in vmtest.kubectl(cluster, "pods", "-l", "app=hello")
                   if each["spec"]["nodeName"] == node)
        cluster.run("kubectl", "delete", "pod", pod, seconds=vmtest.PATIENCE)
        all_is_well(cluster)
        for _ in range(2):
            beat = heartbeat(cluster, node)
            vmtest.wait_for("a heartbeat", lambda old=beat: "none" if heartbeat(cluster, node) == old else "", vmtest.PATIENCE)
            assert vmtest.not_ready(cluster) == ""
    finally:
        turn_clock(cluster, node, -seconds)
    all_is_well(cluster)


def turn_clock(cluster: vms.Vms, node: str, seconds: int) -> None:
    """Set a machine's clock, by so much from what it is."""
    cluster.ssh(node, f"date -s @$(($(date +%s) + {seconds}))")


def heartbeat(cluster: vms.Vms, node: str) -> str:
    """When a node has renewed its Lease."""
    return next(str(each["spec"]["renewTime"]) for each in vmtest.kubectl(cluster, "leases", "-n", "kube-node-lease")
                if each["metadata"]["name"] == node)


def test_offloads_of_the_cards(cluster: vms.Vms) -> None:
    """Each byte arrives whoever makes checksums and segments of it: the machine's kernel or its card."""
    there = cluster.ssh(FIRST, "ip -o -4 addr show dev flannel.1").split()[3].partition("/")[0]
    digest = cluster.ssh(FIRST, f"mkdir -p /run/bytes; head -c {BYTES} /dev/urandom >/run/bytes/all; sha256sum </run/bytes/all")
    cluster.ssh(FIRST, f"systemd-run --quiet --unit bytes python3 -m http.server --directory /run/bytes --bind {there} 5999")
    try:
        for wanted in ("off", "on"):
            for node in cluster.nodes:
                cluster.ssh(node, f"ethtool -K eth1 tx {wanted} sg {wanted} tso {wanted} gso {wanted} gro {wanted}")
                assert f"tx-checksumming: {wanted}" in cluster.ssh(node, "ethtool -k eth1")
            fetch = f"curl -fsS --retry 60 --retry-delay 1 --retry-connrefused http://{there}:5999/all | sha256sum"
            assert cluster.ssh(NODE, fetch, seconds=vmtest.PATIENCE) == digest
            all_is_well(cluster)
    finally:
        cluster.ssh(FIRST, "systemctl stop bytes; rm -r /run/bytes")


@pytest.mark.parametrize(("backend", "mode", "shows"), [
    ("wireguard", "nftables", "wg show flannel-wg latest-handshakes"), ("ipip", "nftables", "ip -d link show flannel.ipip"),
    ("ipsec", "nftables", "ip -s xfrm state | grep \"proto esp\""),
    ("vxlan", "ipvs", "ipvsadm -Ln | grep 10.96.88.88:80"), ("vxlan", "nftables", "ip -d link show flannel.1")])
def test_given_another_backend_or_mode(cluster: vms.Vms, backend: str, mode: str, shows: str) -> None:
    lab(cluster.path, "run", "env", f"BACKEND={backend}", f"PROXY_MODE={mode}", "vagrant", "provision")
    cluster.run("kubectl", "delete", "pod", "-l", "app=hello", seconds=vmtest.PATIENCE)  # they keep the MTU they were made with
    lab(cluster.path, "test")
    for node in cluster.nodes:
        assert cluster.ssh(node, shows).strip()


def test_one_of_them_has_another_kernel(cluster: vms.Vms, tmp_path: Path) -> None:
    try:
        package = kernels.other(tmp_path)
    except kernels.NotThere as error:
        pytest.skip(f"no second kernel from {debian.MIRROR}: {error}")
    there = "/var/tmp/kernel.deb"
    cluster.run("scp", "-q", "-F", f"{cluster.path}/ssh_config", str(package), f"{NODE}:{there}", seconds=vmtest.PATIENCE)
    cluster.ssh(NODE, f"dpkg --force-unsafe-io --install {there} && rm {there} && sync", seconds=vmtest.PATIENCE)
    vmtest.rebooted(cluster, NODE)
    kernel = {node: cluster.ssh(node, "uname -r").strip() for node in cluster.nodes}
    print(kernel, flush=True)
    assert kernel[NODE] != kernel[FIRST]
    assert kernel[NODE] in package.name
    with pytest.raises(AssertionError, match=f"{NODE}: the kernel is too old for a Service proxy in nftables mode"):
        lab(cluster.path, "test")  # all reach all, and then doctor says so
    lab(cluster.path, "run", "env", "PROXY_MODE=iptables", "vagrant", "provision")
    lab(cluster.path, "test")


def test_it_stays_one_whatever_is_done_to_them(state: Path) -> None:
    lab(state, "up")
    lab(state, "test", "--reboot")
    lab(state, "run", "vagrant", "halt")
    lab(state, "up")
    lab(state, "test")
    lab(state, "run", "vagrant", "destroy", "--force")
    lab(state, "up")
    lab(state, "test")
