"""The way out changes under a running daemon: its MTU, its address, the link itself. Nobody restarts anything."""

from __future__ import annotations

import json

import pytest
from site_of_nodes import Node, Site, echo_passes, ping_once, until

pytestmark = [pytest.mark.kernel, pytest.mark.etcd]


def shell(node: Node, *commands: str) -> None:
    for command in commands:
        node.ns.run(command.split())


def mtu(node: Node) -> int:
    found = json.loads(node.ns.run(["ip", "-j", "link", "show", "flannel.1"], check=False).stdout or "[]")
    return found[0]["mtu"] if found else 0


def test_the_mtu_follows(lasting_site: Site) -> None:
    one, two = lasting_site.nodes
    for outer in (1400, 1500):
        shell(one, f"ip link set eth0 mtu {outer}")
        until(lambda: mtu(one) == outer - 50, f"the device follows to {outer}")  # noqa: B023
        until(lambda: one.env()["FLANNEL_MTU"] == str(outer - 50), "subnet.env follows")  # noqa: B023
    assert ping_once(one.pod, two.pod_ip)


def test_the_limit_passes_and_one_more_byte_does_not(lasting_site: Site) -> None:
    one, two = lasting_site.nodes
    for node in (one, two):
        shell(node, "ip link set cni0 mtu 1500", "ip link set pod0 mtu 1500")
        node.pod.run(["ip", "link", "set", "eth0", "mtu", "1500"])
    assert echo_passes(one.pod, two.pod_ip, 1450)
    assert not echo_passes(one.pod, two.pod_ip, 1451, 0.3)


def test_a_flapping_underlay_leaves_nothing_behind(lasting_site: Site) -> None:
    one, two = lasting_site.nodes
    before = one.state()
    shell(one, "ip link set eth0 down", "ip link set eth0 up", "ip route add default via 192.168.77.254")
    until(lambda: ping_once(one.pod, two.pod_ip, 0.1), "pods reach each other")
    until(lambda: one.state() == before, "all is as before")


@pytest.mark.slow
def test_a_new_address_is_taken_up_with_the_old_subnet_and_mac(site: Site) -> None:
    one, two = site.add_node(), site.add_node()
    one.start()
    two.start()
    site.add_pods()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "the network works")
    subnet, mac = one.subnet, one.mac()
    shell(one, "ip addr del 192.168.77.1/24 dev eth0", "ip addr add 192.168.77.101/24 dev eth0")
    lease = f"{subnet}.0-24"
    until(lambda: site.etcd.subnets()[lease]["PublicIP"] == "192.168.77.101", "the lease says so")
    until(lambda: ping_once(two.pod, one.pod_ip, 0.1), "pods reach each other")
    assert (one.subnet, one.mac(), len(site.etcd.subnets())) == (subnet, mac, 2)
    assert "local 192.168.77.101" in one.ns.run(["ip", "-d", "link", "show", "flannel.1"]).stdout
    assert "dst 192.168.77.101" in two.ns.run(["bridge", "fdb", "show", "dev", "flannel.1"]).stdout
    assert "is gone" not in one.log.read_text()


@pytest.mark.slow
def test_a_lost_underlay_is_waited_for(site: Site) -> None:
    one, two = site.add_node(), site.add_node()
    one.start()
    two.start()
    site.add_pods()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "the network works")
    mac = one.mac()
    shell(one, "ip link del eth0")
    until(lambda: "the way out is lost" in one.log.read_text(), "it is told")
    assert mtu(one) == 0, "the kernel has taken the device along"
    site.wire(one)
    until(lambda: ping_once(one.pod, two.pod_ip, 0.1), "pods reach each other")
    assert one.mac() == mac
