"""The services under a real systemd: killed, hung, started in any order, the network late, the disk full, a node rebooted.

Two machines, a server and an agent that joined by token; the tests share them and leave them as they were.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from minik8s.pki.authority import Authority, Identity
from tests import nspawn
from tests.nspawn import Machine, Site

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(900)]
SERVER = ("minik8s-etcd", "minik8s-apiserver", "minik8s-controllers", "minik8s-scheduler")
NODE = ("minik8s-kubelet", "flanneld-py", "kube-proxy-py")
KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig"
FASTER = "[Service]\nWatchdogSec=4\n"  # a hang is found in seconds


@dataclass
class Cluster:
    site: Site
    server: Machine
    agent: Machine

    def ready(self, *, seconds: float = 90) -> float:
        """Wait until all services run and both nodes are ready and reach one another's pod network."""
        self.server.until(active(*SERVER, *NODE), seconds=seconds)
        took = self.agent.until(active(*NODE), seconds=seconds)
        self.server.until(f"test $({KUBECTL} get nodes --no-headers | grep -c ' Ready ') = 2", seconds=seconds)
        self.server.until(f"ping -c1 -W1 {subnet(self.agent)}", seconds=seconds)
        for machine in (self.server, self.agent):
            machine.run("systemctl reset-failed 'minik8s*' '*-py*'")  # the next test's do not wait for what this one killed
        return took


def active(*units: str) -> str:
    """The question whether all of them are: of several in one command, systemd says yes for any."""
    return " && ".join(f"systemctl is-active {unit}" for unit in units)


def subnet(machine: Machine) -> str:
    """The address of its end of the tunnel."""
    return machine.run("ip -4 -o addr show flannel.1").split()[3].partition("/")[0]


def main_pid(machine: Machine, unit: str) -> int:
    return int(machine.run(f"systemctl show -P MainPID {unit}"))


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    nspawn.require(request)
    with nspawn.site(tmp_path_factory.mktemp("site")) as site:
        made = Cluster(site, site.machine(), site.machine())
        for machine in (made.server, made.agent):
            for unit in (*SERVER, *NODE):
                machine.write(f"etc/systemd/system/{unit}.service.d/test.conf", FASTER)
            machine.boot()
            machine.run("systemctl enable --now containerd")
        made.server.run("minik8s install server")
        join = made.server.run("minik8s token create").strip().removeprefix("minik8s join")
        made.agent.run(f"minik8s install agent {join}")
        made.ready()
        yield made


def test_installing_again_changes_nothing(cluster: Cluster) -> None:
    pids = [main_pid(cluster.server, unit) for unit in (*SERVER, *NODE)]
    said = cluster.server.run("minik8s install server")
    assert "wrote" not in said
    assert pids == [main_pid(cluster.server, unit) for unit in (*SERVER, *NODE)]
    assert "wrote" not in cluster.agent.run(f"minik8s install agent {cluster.server.address}:6443")


def test_no_service_has_more_than_it_needs(cluster: Cluster) -> None:
    """As the running systemd sees it, and as the kernel does."""
    for unit in (*SERVER, *NODE):
        cluster.server.run(f"systemd-analyze security --threshold=30 {unit}")
        status = cluster.server.run(f"cat /proc/{main_pid(cluster.server, unit)}/status")
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        if unit in SERVER:
            assert "CapEff:\t0000000000000000" in status
            assert "Uid:\t0\t" not in status
        assert not int(status.split("CapEff:\t")[1].split()[0], 16) >> 21 & 1, f"{unit} has CAP_SYS_ADMIN"


MOUNTS = """
import time
from minik8s.kubelet.mounts import ensure_tmpfs, unmount_below
from pathlib import Path
place = Path("/var/lib/kubelet/of a test")
place.mkdir()
ensure_tmpfs(str(place), size=1 << 20, mode=0o755)
ensure_tmpfs(str(place), size=1 << 20, mode=0o755)
(place / "kept").write_text("here")
Path("/var/lib/kubelet/go").write_text("")
while Path("/var/lib/kubelet/go").exists():
    time.sleep(0.05)
unmount_below(str(place))
place.rmdir()
"""


def test_tmpfs_is_mounted_for_a_kubelet_that_may_not(cluster: Cluster) -> None:
    """In the kubelet's own confinement; systemd mounts it where the runtime, outside, sees it, and takes it away again."""
    agent = cluster.agent
    agent.run(f"cat >/run/mounts.py <<'END'\n{MOUNTS}\nEND")
    agent.run(f"sed -e 's!^ExecStart=.*!ExecStart={nspawn.INSIDE}/.venv/bin/python /run/mounts.py!' -e 's/^Type=.*/Type=exec/' "
              "-e '/^Restart\\|^WatchdogSec\\|^StateDirectory/d' /etc/systemd/system/minik8s-kubelet.service "
              ">/run/systemd/system/mounts.service; systemctl daemon-reload; systemctl start mounts")
    try:
        agent.until("test -e /var/lib/kubelet/go")
        assert agent.run("cat '/var/lib/kubelet/of a test/kept'") == "here"
        mounted = [line for line in agent.run("cat /proc/mounts").splitlines() if "/of" in line]
        assert len(mounted) == 1
        assert {"nosuid", "nodev", "size=1024k", "mode=755"} <= set(mounted[0].split()[3].split(","))
    finally:
        agent.run("rm -f /var/lib/kubelet/go")
    agent.until("test $(systemctl show -P ActiveState mounts) != active")
    assert agent.run("systemctl show -P Result mounts").strip() == "success", agent.run("systemctl status mounts", check=False)
    assert "/of" not in agent.run("cat /proc/mounts")


def anew(cluster: Cluster, units: tuple[str, ...], signal: str) -> None:
    """Send all of them a signal at once; each must be another process soon, and all work."""
    before = {unit: main_pid(cluster.server, unit) for unit in units}
    cluster.server.run(f"kill -{signal} {' '.join(map(str, before.values()))}")
    for unit, pid in before.items():
        cluster.server.until(f"{active(unit)} && test $(systemctl show -P MainPID {unit}) != {pid}")
    cluster.ready()


def test_what_is_killed_comes_back(cluster: Cluster) -> None:
    for units in (("flanneld-py",), ("minik8s-apiserver",), (*SERVER, *NODE)):
        anew(cluster, units, "KILL")


def test_what_hangs_is_started_anew(cluster: Cluster) -> None:
    """Stopped as by a debugger: only the watchdog can tell."""
    units = (*SERVER, *NODE)
    anew(cluster, units, "STOP")
    for unit in units:
        assert "watchdog" in cluster.server.run(f"journalctl -q --no-pager -u {unit} -n 60").lower(), unit


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_any_order_of_starting_ends_well(cluster: Cluster, seed: int | None) -> None:
    """Each by itself, those who are needed last, or by chance: nobody orders across machines, and jobs of one may be ignored."""
    starts = [(machine, unit) for machine, units in ((cluster.server, (*SERVER, *NODE)), (cluster.agent, NODE))
              for unit in reversed(units)]
    if seed is not None:
        random.Random(seed).shuffle(starts)
    cluster.server.run(f"systemctl stop {' '.join((*NODE, *SERVER))}")
    cluster.agent.run(f"systemctl stop {' '.join(NODE)}")
    for machine, unit in starts:
        machine.run(f"systemctl start --no-block --job-mode=ignore-dependencies {unit}")
    cluster.ready()


@pytest.mark.parametrize("late", ["agent", "server"])
def test_the_network_may_be_late(cluster: Cluster, late: str) -> None:
    """Booted without an address: all wait or run, none gives up, and they work once there is one, with the subnet of before."""
    machine: Machine = getattr(cluster, late)
    units = NODE if late == "agent" else (*SERVER, *NODE)
    before = subnet(machine)
    machine.power_off()
    machine.boot(network=False)
    machine.until("systemctl is-active containerd && test \"$(systemctl show -P ActiveState flanneld-py)\" != active")
    for unit in units:
        machine.until(f"systemctl show -P ActiveState {unit} | grep -x 'active\\|activating'")
    machine.plug()
    cluster.ready()
    assert subnet(machine) == before


def fill(machine: Machine, *directories: str) -> None:
    """Have no byte left there."""
    for directory in directories:
        machine.run(f"for size in 64k 1; do dd if=/dev/zero of={directory}/full-$size bs=$size count=9999 2>/dev/null || true; "
                    f"done; ! (echo more >{directory}/full-no-more) 2>/dev/null")


def test_the_disk_may_be_full(cluster: Cluster) -> None:
    """/run is full when the agents are killed: packets go on, the proxy works, flanneld once it can write subnet.env."""
    agent = cluster.agent
    agent.run("mount -o remount,size=16M /run")
    fill(agent, "/run")
    try:
        agent.run("systemctl kill --signal=KILL flanneld-py kube-proxy-py")
        agent.until(f"{active('kube-proxy-py')} && test $(systemctl show -P NRestarts kube-proxy-py) -gt 0")
        agent.run(f"ping -c1 -W1 {subnet(cluster.server)}")
    finally:
        agent.run("rm -f /run/full-*; mount -o remount,size=1G /run")
    cluster.ready()


STATE = {"minik8s-etcd": "/var/lib/minik8s-etcd", "minik8s-apiserver": "/var/cache/minik8s",
         "minik8s-kubelet": "/var/lib/kubelet"}


def test_the_disk_of_what_is_kept_may_be_full(cluster: Cluster) -> None:
    """What services keep is on small disks that are full, and all are killed: none gives up; with room again nothing is lost."""
    server = cluster.server
    server.run(f"{KUBECTL} create configmap kept --from-literal=a=b")
    server.run(f"systemctl stop {' '.join(STATE)}")
    for directory in STATE.values():
        server.run(f"cp -a {directory} /var/tmp/kept; mount -t tmpfs -o size=300M small {directory}; "
                   f"chown --reference /var/tmp/kept {directory}; chmod --reference /var/tmp/kept {directory}; "
                   f"cp -a /var/tmp/kept/. {directory}; rm -rf /var/tmp/kept")
    server.run(f"systemctl start {' '.join(STATE)}")
    cluster.ready()
    try:
        fill(server, *STATE.values())
        pids = {unit: main_pid(server, unit) for unit in (*SERVER, *NODE)}
        server.run(f"systemctl kill --signal=KILL {' '.join(pids)}")
        for unit, pid in pids.items():
            server.until(f"systemctl show -P ActiveState {unit} | grep -x 'active\\|activating'; "
                         f"test $(systemctl show -P NRestarts {unit}) -gt 0; test $(systemctl show -P MainPID {unit}) != {pid}")
        server.run(f"ping -c1 -W1 {subnet(cluster.agent)}")
    finally:
        server.run(f"rm -f {' '.join(f'{directory}/full-*' for directory in STATE.values())}")
    cluster.ready()
    assert server.run(f"{KUBECTL} get configmap kept -o jsonpath={{.data.a}}") == "b"


def test_a_reboot_of_the_server_ends_well(cluster: Cluster) -> None:
    before = subnet(cluster.server)
    cluster.server.power_off()
    cluster.server.boot()
    cluster.ready()
    assert subnet(cluster.server) == before


def test_the_target_stops_and_starts_all_and_packets_go_on(cluster: Cluster) -> None:
    cluster.agent.run("systemctl stop minik8s.target")
    for unit in NODE:
        cluster.agent.until(f"test $(systemctl show -P ActiveState {unit}) = inactive")
    cluster.agent.run(f"ping -c1 -W1 {subnet(cluster.server)}")
    cluster.agent.run("systemctl start --no-block minik8s.target flanneld-py kube-proxy-py")
    cluster.ready()


def test_flanneld_alone_with_its_key_as_a_credential(cluster: Cluster) -> None:
    """A host that only wants flanneld, its leases in an etcd that asks for a certificate."""
    host, ca = cluster.site.machine(), Authority()
    server, client = (ca.issue(Identity(name, names=names)) for name, names in (("etcd", ("127.0.0.1",)), ("flanneld", ())))
    for name, text in (("ca.crt", ca.pair.certificate), ("server.crt", server.certificate), ("server.key", server.key),
                       ("client.crt", client.certificate)):
        host.write(f"etc/ssl/test/{name}", text.decode())
    host.write("etc/flanneld-py/keys/etcd.key", client.key.decode(), 0o600)
    host.write("etc/flanneld-py/flanneld-py.env", (
        "FLANNELD_ETCD_ENDPOINTS=https://127.0.0.1:2379\nFLANNELD_ETCD_CAFILE=/etc/ssl/test/ca.crt\n"
        "FLANNELD_ETCD_CERTFILE=/etc/ssl/test/client.crt\nFLANNELD_IFACE=host0\n"
        "FLANNELD_ETCD_KEYFILE=/run/credentials/flanneld-py.service/keys_etcd.key\n"))
    host.boot()
    host.run("minik8s install flanneld --no-start; systemctl enable --now --no-block flanneld-py")  # before there is an etcd
    host.run("cd /etc/ssl/test; systemd-run -q --unit=store etcd --data-dir /var/lib/store --client-cert-auth "
             "--listen-client-urls https://127.0.0.1:2379 --advertise-client-urls https://127.0.0.1:2379 "
             "--cert-file $PWD/server.crt --key-file $PWD/server.key --trusted-ca-file $PWD/ca.crt")
    network = '{"Network": "10.5.0.0/16", "EnableNFTables": true, "Backend": {"Type": "vxlan"}}'
    host.until("cd /etc/ssl/test; etcdctl --endpoints https://127.0.0.1:2379 --cacert ca.crt --cert client.crt "
               f"--key /etc/flanneld-py/keys/etcd.key put /coreos.com/network/config '{network}'")
    host.until(f"{active('flanneld-py')} && grep -q FLANNEL_SUBNET=10.5 /run/flannel/subnet.env")
    host.power_off()


def test_the_relay_lives_on_when_flanneld_ends(cluster: Cluster) -> None:
    """The udp backend's packets go through a process of its own: killed, restarted, stopped, flanneld costs none."""
    cluster.server.run("minik8s install server --backend udp")
    cluster.agent.run(f"minik8s install agent {cluster.server.address}:6443 --backend udp")
    for machine in (cluster.server, cluster.agent):
        machine.until("ip link show flannel0 && ! ip link show flannel.1")
    there = cluster.server.run("ip -4 -o addr show flannel0").split()[3].partition("/")[0]
    cluster.agent.until(f"ping -c1 -W1 {there}")
    cluster.agent.run(f"systemd-run -q --unit=pings -p StandardOutput=file:/tmp/pings ping -i 0.05 {there}")
    cluster.agent.run("systemctl restart flanneld-py; systemctl kill --signal=KILL --kill-who=main flanneld-py")
    cluster.agent.until(f"{active('flanneld-py')} && test $(systemctl show -P NRestarts flanneld-py) -gt 0")
    cluster.agent.run("systemctl stop flanneld-py; sleep 1; systemctl start flanneld-py")
    cluster.agent.run("systemctl kill --signal=INT pings; sleep 1")
    assert ", 0% packet loss" in cluster.agent.run("cat /tmp/pings")


def test_the_journal_has_fields(cluster: Cluster) -> None:
    said = cluster.server.run("journalctl -q -o json -n 1 -u kube-proxy-py -t kube-proxy-py LOGGER=nodecore.loop.reconcile")
    assert '"CODE_FILE"' in said
    assert '"PRIORITY":"6"' in said
    assert "ready" in cluster.server.run("journalctl -q -t minik8s-apiserver -n 20")


def test_uninstalled_leaves_no_unit(cluster: Cluster) -> None:
    """Last: the agent is a node no more, what runs on the other is not disturbed."""
    cluster.agent.run("minik8s uninstall --purge")
    left = cluster.agent.run("ls /etc/systemd/system /etc/minik8s /etc/kubernetes 2>&1", check=False)
    assert "flanneld" not in left.replace("flanneld-py.service.d", "")
    assert cluster.agent.run("systemctl list-units --no-legend 'minik8s*' '*-py*'") == ""
    assert cluster.agent.run("nft list tables; ip -br link show type vxlan; ip link show cni0; getent passwd minik8s",
                             check=False) == 'Device "cni0" does not exist.\n'
    cluster.server.run(active(*SERVER, *NODE))
