"""One daemon: how it starts, what it refuses, how it lives with reservations, races, renewals and other people's work."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import time
import urllib.request
from ipaddress import ip_address
from pathlib import Path

import pytest
from etcdserver import EtcdServer
from site_of_nodes import CONFIG, Node, Site, heals, ping_once, until

from flanneld_py.lease import Part
from flanneld_py.netconf import parse_netconf
from flanneld_py.store.etcd import EtcdLeaseStore
from flanneld_py.store.port import Wish
from flanneld_py.tenure import Tenure
from nodecore.etcd.client import EtcdClient, EtcdConfig
from nodecore.net import Family
from tests.promised import at_some_pace, in_time

PREFIX = "/coreos.com/network"


def flanneld(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flanneld_py", *arguments], text=True, capture_output=True, check=False, timeout=120,
        env=os.environ | (env or {}),
    )


@pytest.mark.parametrize(("arguments", "words"), [
    (["-ip-masq", "-nosuch=3"], "-nosuch"),
    (["-kube-subnet-mgr"], "--kube-subnet-mgr: this is not a pod: give --kubeconfig-file or --kube-api-url"),
    (["--kube-subnet-mgr=true", "-kube-api-url=here"], "--kube-api-url: 'here'"),
    (["--kube-subnet-mgr=true", "-kube-api-url=http://127.0.0.1:1"], "Set NODE_NAME, or POD_NAME and POD_NAMESPACE"),
    (["-kube-subnet-mgr", "-kubeconfig-file=/nonexistent"], "/nonexistent"),
    (["-kube-subnet-mgr", "-kube-annotation-prefix=Flannel"], "--kube-annotation-prefix: 'Flannel'"),
    (["-etcd-endpoints=nonsense"], "--etcd-endpoints: 'nonsense'"),
    (["-etcd-cafile=/nonexistent"], "/nonexistent"),
    (["-public-ip=1.2.3"], "--public-ip: '1.2.3' is not an IP address"),
    (["-subnet-lease-renew-margin=0"], "--subnet-lease-renew-margin"),
    (["-healthz-port=70000"], "--healthz-port"),
    (["-vxlan-tx-checksum=maybe"], "--vxlan-tx-checksum: 'maybe'"),
    (["-iface=nosuch", "-etcd-endpoints=http://127.0.0.1:1"], "--iface: no interface called 'nosuch'"),
    (["-etcd-prefix=/"], "--etcd-prefix"),
])
def test_wrong_flags_get_one_line_and_exit_2(arguments: list[str], words: str) -> None:
    done = flanneld(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_environment_gives_flags() -> None:
    assert "--public-ip: 'here'" in flanneld(env={"FLANNELD_PUBLIC_IP": "here"}).stderr
    assert "--public-ip: 'there'" in flanneld("--public-ip", "there", env={"FLANNELD_PUBLIC_IP": "here"}).stderr


def test_a_start_imports_nothing_it_does_not_need() -> None:
    script = ("import sys, flanneld_py.__main__, flanneld_py.agent, flanneld_py.store.etcd\n"
              "print(*{'aiohttp', 'cryptography', 'email', 'http.server', 'importlib.metadata', 'msgspec', 'prometheus_client',"
              " 'pyroute2', 'yaml', 'flanneld_py.rehearsal'} & sys.modules.keys())")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_help_is_quick_and_names_every_flag_of_the_original() -> None:
    def processor() -> float:
        """Its seconds of processor, which a busy machine does not change: it waits for nothing."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        flanneld("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    in_time(processor, 0.5, "help")
    text = flanneld("--help").stdout
    for flag in ("etcd-endpoints", "iface-can-reach", "subnet-lease-renew-margin", "ip-masq", "iptables-forward-rules", "v"):
        assert f"--{flag} " in text


kernel = pytest.mark.kernel
etcd = pytest.mark.etcd


def started(site: Site, *flags: str) -> Node:
    node = site.add_node()
    node.start(*flags)
    return node


@kernel
@etcd
@pytest.mark.parametrize(("config", "words"), [
    ({"Network": "10.5.0.0/16", "Backend": {"Type": "tencent-vpc"}}, "'tencent-vpc' is not supported (it needs Tencent's"),
    ({"Network": "10.5"}, "Network: '10.5'"),
])
def test_a_wrong_network_config_ends_it(site: Site, config: dict, words: str) -> None:
    site.configure(config)
    node = site.add_node()
    done = node.ns.run(node.arguments(), check=False, timeout=120)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert "flannel" not in node.ns.run(["ip", "link"]).stdout
    assert not node.subnet_file.exists()


@kernel
@etcd
@pytest.mark.slow
def test_it_waits_for_etcd_and_for_the_config(site: Site) -> None:
    site.etcd.ctl("del", f"{PREFIX}/config")
    site.etcd.kill()
    node = site.add_node()
    node.start(wait=False)
    until(lambda: "Couldn't fetch the network config: etcd at" in node.log.read_text(), "it says that etcd is missing")
    site.etcd.start()
    until(lambda: "nobody has written the network config" in node.log.read_text(), "it says that the key is missing")
    site.configure()
    until(node.subnet_file.exists, "it starts")


@kernel
@etcd
@pytest.mark.slow
def test_a_full_disk_is_waited_out(site: Site) -> None:
    node = site.add_node()
    where = node.subnet_file.parent
    script = f'mount -t tmpfs -o size=8k none {where} && head -c 8192 /dev/zero > {where}/fill; exec "$@"'
    node.daemon = node.ns.popen(["unshare", "-m", "sh", "-c", script, "sh", *node.arguments()], stderr=node.log.open("ab"))
    until(lambda: "nobody is told: --subnet-file: cannot write" in node.log.read_text(), "it says so")
    inside = Path(f"/proc/{node.daemon.pid}/root{where}")
    assert [path.name for path in inside.iterdir()] == ["fill"], "no half-written file is left"
    (inside / "fill").unlink()
    until((inside / "subnet.env").exists, "it is written")
    assert node.log.read_text().count("cannot write") == 1


@kernel
@etcd
def test_dry_run_writes_nothing(site: Site) -> None:
    node = site.add_node()
    before = node.state()
    out = node.ns.run(node.arguments("-ip-masq", "--dry-run"), timeout=120).stdout
    assert re.search(r"^lease 10\.5\.\d+\.0/24 of 192\.168\.77\.1$", out, re.M)
    assert "add link flannel.1 vxlan id 1 local 192.168.77.1 dev eth0 dstport 8472 mtu 1450" in out
    assert "add nft table ip flannel-ipv4" in out
    assert (node.state(), site.etcd.subnets(), node.subnet_file.exists()) == (before, {}, False)


@kernel
@etcd
def test_health_and_metrics(site: Site) -> None:
    node = started(site, "-healthz-port=8471")

    def get(path: str) -> str:
        with node.ns.enter(), urllib.request.urlopen(f"http://127.0.0.1:8471{path}", timeout=60) as reply:
            return reply.read().decode()

    assert get("/healthz") == "flanneld is running"
    assert get("/readyz") == "ok"
    assert "flanneld_sync_duration_seconds_count" in get("/metrics")


@kernel
@etcd
def test_it_is_small_and_quiet(site: Site) -> None:
    node = started(site, "-ip-masq", "-healthz-port=8471")
    assert node.daemon
    at = Path(f"/proc/{node.daemon.pid}")
    until(lambda: int(re.search(r"VmRSS:\s+(\d+)", (at / "status").read_text())[1]) < 60 * 1024, "it is small")  # type: ignore[index]

    def processor() -> int:
        """Nanoseconds, of all threads."""
        return sum(int(path.read_text().split()[0]) for path in at.glob("task/*/schedstat"))

    def a_second() -> float:
        before = processor()
        time.sleep(1)
        return (processor() - before) / 1e9

    in_time(a_second, 0.02, "seconds of processor within a second at rest")


@kernel
@etcd
def test_a_reservation_is_used_and_stays_one(site: Site) -> None:
    site.etcd.put(f"{PREFIX}/subnets/10.5.200.0-24", '{"PublicIP":"192.168.77.1"}')
    node = started(site)
    assert node.subnet == "10.5.200"
    raw = json.loads(site.etcd.ctl("get", f"{PREFIX}/subnets/10.5.200.0-24", "-w", "json"))
    assert "lease" not in raw["kvs"][0]
    assert site.etcd.subnets()["10.5.200.0-24"]["BackendData"]["VtepMAC"] == node.mac()


@kernel
@etcd
def test_a_lost_device_and_a_lost_subnet_file_come_back_from_the_lease(site: Site) -> None:
    node = started(site)
    subnet, mac = node.subnet, node.mac()
    node.stop()
    node.subnet_file.unlink()
    node.ns.run(["ip", "link", "del", "flannel.1"])
    node.start()
    assert (node.subnet, node.mac()) == (subnet, mac)


@kernel
@etcd
def test_a_lost_lease_comes_back_from_the_subnet_file(site: Site) -> None:
    node = started(site)
    subnet, mac = node.subnet, node.mac()
    node.stop()
    site.etcd.ctl("del", "--prefix", f"{PREFIX}/subnets/")
    node.start()
    assert (node.subnet, node.mac()) == (subnet, mac)


@kernel
@etcd
def test_an_address_that_changed_while_it_was_stopped_keeps_the_subnet(site: Site) -> None:
    node = started(site)
    subnet, mac = node.subnet, node.mac()
    node.stop()
    for command in ("ip addr del 192.168.77.1/24 dev eth0", "ip addr add 192.168.77.101/24 dev eth0"):
        node.ns.run(command.split())
    node.start()
    assert (node.subnet, node.mac()) == (subnet, mac)
    assert {key: value["PublicIP"] for key, value in site.etcd.subnets().items()} == {f"{subnet}.0-24": "192.168.77.101"}


@kernel
@etcd
def test_what_go_flanneld_left_is_taken_over(site: Site) -> None:
    one = site.add_node()
    for command in (
        "ip link add flannel.1 address aa:35:ff:e7:53:53 mtu 1450"
        " type vxlan id 1 local 192.168.77.1 dev eth0 dstport 8472 nolearning",
        "ip link set flannel.1 up", "ip addr add 10.5.7.0/32 dev flannel.1",
        "ip route add 10.5.8.0/24 via 10.5.8.0 dev flannel.1 onlink",
        "ip route add 10.5.9.0/24 via 10.5.9.0 dev flannel.1 onlink",
    ):
        one.ns.run(command.split())
    value = {"PublicIP": "192.168.77.1", "PublicIPv6": None, "BackendType": "vxlan",
             "BackendData": {"VNI": 1, "VtepMAC": "aa:35:ff:e7:53:53"}}
    peer = value | {"PublicIP": "192.168.77.8", "BackendData": {"VNI": 1, "VtepMAC": "0e:00:00:00:00:08"}}
    site.etcd.put(f"{PREFIX}/subnets/10.5.7.0-24", json.dumps(value))
    site.etcd.put(f"{PREFIX}/subnets/10.5.8.0-24", json.dumps(peer))
    site.etcd.put(f"{PREFIX}/subnets/garbage", "garbage")
    index = one.ns.run(["ip", "-br", "link", "show", "flannel.1"]).stdout
    one.start()
    assert one.ns.run(["ip", "-br", "link", "show", "flannel.1"]).stdout == index
    assert one.ns.run(["ip", "route", "show", "dev", "flannel.1"]).stdout == "10.5.8.0/24 via 10.5.8.0 proto 70 onlink \n"
    assert one.subnet == "10.5.7"


# --- the store by itself -----------------------------------------------------------------------------------------


def wish(number: int, config: dict | None = None) -> Wish:
    def data(family: Family, before: Part | None) -> dict:
        return {"VNI": 1, "VtepMAC": f"02:00:00:00:00:{number:02x}"}

    conf = parse_netconf(json.dumps(config or CONFIG))
    return Wish(conf, {Family.IPV4: ip_address(f"192.168.77.{number}")}, (), data)


async def keys_in(client: EtcdClient) -> set[str]:
    found = await client.range(f"{PREFIX}/subnets/")
    return {item.key.rpartition("/")[2] for item in found.items}


@etcd
async def test_a_dozen_nodes_at_once_get_a_dozen_subnets() -> None:
    """Over loopback: gRPC's threads connect from the namespace they were made in, not from the one a test entered since."""
    small = {"Network": "10.5.0.0/24", "SubnetLen": 28}
    with EtcdServer.start() as server:
        async with EtcdClient(EtcdConfig(server.endpoints)) as client:
            stores = [EtcdLeaseStore(client, PREFIX) for _ in range(15)]
            held = await asyncio.gather(*(store.acquire(wish(number + 1, small)) for number, store in enumerate(stores)))
            assert len({one.lease.key for one in held}) == 15
            assert await keys_in(client) == {one.lease.key for one in held}


@etcd
@pytest.mark.slow
async def test_a_lease_is_renewed_in_time_and_ends_with_its_owner() -> None:
    async def attempt(pace: float) -> None:
        tenure = Tenure(EtcdLeaseStore(client, PREFIX, ttl=int(2 * pace)), wish(1), 3600.0, lambda: None)
        await tenure.begin()
        task = asyncio.create_task(tenure.run())
        try:
            await asyncio.sleep(4.5 * pace)
            assert await keys_in(client) == {tenure.lease.key}
        finally:
            task.cancel()
        async with asyncio.timeout(30 + 2 * pace):
            while await keys_in(client):
                await asyncio.sleep(0.1)

    with EtcdServer.start() as server:
        async with EtcdClient(EtcdConfig(server.endpoints)) as client:
            await at_some_pace(attempt)


@kernel
@etcd
def test_a_pod_network_heals_with_traffic_on_it(site: Site) -> None:
    one, two = started(site), started(site)
    site.add_pods()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "the network works")
    took = heals(lambda: one.ns.run(["ip", "link", "del", "flannel.1"]), lambda: ping_once(one.pod, two.pod_ip, 0.05),
                 "pods reach each other again", 1.0)
    print(f"{took:.2f} s")
