"""How the daemon is run: its version, its metrics, the watchdog, and a reload that loses no packet."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from site_of_nodes import CONFIG, Node, Site, ping_once, pinging, until

from flanneld_py import metrics
from nodecore.loop.reconcile import Outcome

PEER = {"PublicIP": "192.168.77.99", "PublicIPv6": None, "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": "0e:00:00:00:00:99"}}


def test_the_version_is_on_stderr_as_flannels() -> None:
    done = subprocess.run([sys.executable, "-m", "flanneld_py", "-v=2", "-version"], text=True, capture_output=True, check=True)
    assert (done.stdout, bool(re.fullmatch(r"v\d+\.\d+\.\d+\n", done.stderr))) == ("", True)


def test_healing_is_what_is_written_though_nothing_new_was_told() -> None:
    healing, before = metrics.Healing(), metrics.counts()["healed"]
    write = type("Write", (), {"describe": lambda self: "x"})()
    for ops, told, error in (
        ((write,), "a", None),  # the start
        ((write,), "b", None),  # told something new
        ((write, write), "b", None),  # healed two
        ((), "b", OSError()),
        ((write,), "b", None),  # made good after a failure
        ((write,), "b", None),  # healed one
    ):
        healing.passed(Outcome(ops, 0.1, error), told)
    assert metrics.counts()["healed"] - before == 3


@contextmanager
def told(node: Node) -> Iterator[queue.Queue[str]]:
    """A daemon started with a service manager that listens for good: ten words nobody takes would be the last it can say."""
    path, said = str(node.directory / "lasting"), queue.Queue[str]()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        thread = threading.Thread(target=lambda: [said.put(word.decode()) for word in iter(lambda: manager.recv(200), b"")])
        thread.start()
        environment = os.environ | {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"}
        argv = node.arguments("-ip-masq", "-healthz-port=8471")
        try:
            node.daemon = node.ns.popen(argv, stderr=node.log.open("ab"), env=environment)
            yield said
        finally:
            manager.shutdown(socket.SHUT_RDWR)
            thread.join()


def heard(manager: queue.Queue[str], wanted: str) -> list[str]:
    """All that is said until something is."""
    said: list[str] = []
    while not said or wanted not in said[-1]:
        said.append(manager.get(timeout=60))
    return said


def get(node: Node, path: str) -> str:
    with node.ns.enter(), urllib.request.urlopen(f"http://127.0.0.1:8471{path}", timeout=60) as reply:
        return reply.read().decode()


def metric(node: Node, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", get(node, "/metrics"), re.M)
    assert found, get(node, "/metrics")
    return float(found[1])


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.etcd
def test_metrics_watchdog_and_reload(site: Site) -> None:
    one, two = site.add_node(), site.add_node()
    two.start()
    with told(one) as manager:
        assert set(heard(manager, "READY")[:-1]) <= {"WATCHDOG=1"}
        assert heard(manager, "WATCHDOG") == ["WATCHDOG=1"]
        site.add_pods()
        assert one.pod
        assert one.daemon
        until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "the network works")  # type: ignore[arg-type]
        site.etcd.put("/coreos.com/network/subnets/10.5.99.0-24", json.dumps(PEER))
        site.etcd.put("/coreos.com/network/subnets/10.5.98.0-24", json.dumps(PEER | {"BackendType": "host-gw"}))
        until(lambda: metric(one, 'flanneld_programmed{backend="vxlan",kind="routes"}') == 2, "two peers programmed")
        assert metric(one, 'flanneld_peers{backend="vxlan"}') == 2
        until(lambda: metric(one, 'flanneld_peers{backend="host-gw"}') == 1, "the stranger, which came last, is counted")
        expiry = metric(one, 'flanneld_lease_expiry_timestamp_seconds{backend="vxlan"}')
        assert 86000 < expiry - metric(one, 'flanneld_sync_last_timestamp_seconds{backend="vxlan"}') < 86500
        assert metric(one, 'flanneld_lease_lost_total{backend="vxlan"}') == 0
        assert metric(one, 'flanneld_sync_failures_total{backend="vxlan"}') == 0
        assert metric(one, 'flanneld_rules_sync_changes_total{backend="vxlan"}') > 0
        healed = metric(one, 'flanneld_healed_total{backend="vxlan"}')

        def harm() -> bool:
            """A pass that also brings in a lease is no healing: the route is deleted until one came that did not."""
            one.ns.run(["ip", "route", "del", "10.5.99.0/24"], check=False)
            return metric(one, 'flanneld_healed_total{backend="vxlan"}') > healed

        until(harm, "the healing is counted", every=0.15)

        site.configure(CONFIG | {"Backend": {"Type": "nosuch"}})
        one.daemon.send_signal(signal.SIGHUP)
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", heard(manager, "RELOADING")[-1])
        heard(manager, "READY=1")
        assert "Not reloaded, going on as before: network config: Backend.Type: 'nosuch'" in one.log.read_text()

        site.configure(CONFIG | {"Backend": {"Type": "vxlan", "MTU": 1400}})
        with pinging(one.pod, two.pod_ip) as ping:
            one.daemon.send_signal(signal.SIGHUP)
            heard(manager, "RELOADING")
            heard(manager, "READY=1")
        assert ping.lost == 0, f"{ping.lost} of {ping.sent}"
        assert one.env()["FLANNEL_MTU"] == "1350"
        assert one.daemon.poll() is None, "the same process"
        assert get(one, "/readyz") == "ok"


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.etcd
def test_show_tells_what_is_and_what_should_be(site: Site) -> None:
    one, two = site.add_node(), site.add_node()
    assert "add link flannel.1" in one.show(code=1), "before the first start"
    one.start()
    two.start()
    until(lambda: one.shown().returncode == 0, "the kernel holds what it should, the peer's route too")
    text = one.show()
    assert re.search(rf"^\*\s+{one.subnet}\.0/24\s+{one.ip}\s+vxlan\s+{{", text, re.M)
    assert re.search(rf"^\s+{two.subnet}\.0/24\s+{two.ip}\s+vxlan\s+{{", text, re.M)
    assert re.search(r"^routes\s+1\s+1$", text, re.M)
    assert text.endswith("The kernel holds what it should.\n")
    one.stop()
    one.ns.run(["ip", "route", "del", f"{two.subnet}.0/24"])
    found = json.loads(one.show("-o", "json", code=1))
    assert found["differences"] == [f"add route {two.subnet}.0/24 via {two.subnet}.0 dev flannel.1 onlink"]
    assert found["kernel"]["routes"] == {"wanted": 1, "there": 0}
    assert [lease["own"] for lease in found["leases"]] == [True, False]


@pytest.mark.kernel
@pytest.mark.etcd
def test_a_daemon_that_answers_is_small_with_metrics(site: Site) -> None:
    one = site.add_node()
    one.start("-healthz-port=8471")
    assert one.daemon
    until(lambda: "flanneld_programmed" in get(one, "/metrics"), "metrics")
    status = Path(f"/proc/{one.daemon.pid}/status")
    until(lambda: int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) < 60 * 1024, "it is small")  # type: ignore[index]
