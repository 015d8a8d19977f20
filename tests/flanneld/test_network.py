"""Three real daemons over a real etcd: where do packets go, what does the kernel hold."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading

import pytest
from site_of_nodes import Node, Site, heals, ping_once, pinging, serve_tcp, until

from tests.promised import in_time

pytestmark = [pytest.mark.kernel, pytest.mark.etcd]


def three(site: Site) -> list[Node]:
    nodes = [site.add_node() for _ in range(3)]
    for node in nodes:
        node.start()
    site.add_pods()
    for node in nodes:
        for peer in nodes:
            if peer is not node:
                until(lambda: ping_once(node.pod, peer.pod_ip, 0.3), f"{node.number} reaches {peer.number}")  # noqa: B023
    return nodes


def routes(node: Node) -> str:
    return node.ns.run(["ip", "route", "show", "dev", "flannel.1"]).stdout


def test_pods_reach_each_other_and_the_state_is_exact(site: Site) -> None:
    nodes = three(site)
    one, two, _ = nodes
    assert one.env() == {
        "FLANNEL_NETWORK": "10.5.0.0/16", "FLANNEL_SUBNET": f"{one.subnet}.1/24", "FLANNEL_MTU": "1450", "FLANNEL_IPMASQ": "true",
    }
    assert site.etcd.subnets() == {
        f"{node.subnet}.0-24": {
            "PublicIP": node.ip, "PublicIPv6": None, "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": node.mac()},
        } for node in nodes
    }
    peers = sorted(nodes[1:], key=lambda node: int(node.subnet.split(".")[2]))
    assert routes(one).splitlines() == [f"{p.subnet}.0/24 via {p.subnet}.0 proto 70 onlink " for p in peers]
    link = json.loads(one.ns.run(["ip", "-d", "-j", "link", "show", "flannel.1"]).stdout)[0]
    data = link["linkinfo"]["info_data"]
    assert (link["mtu"], data["id"], data["local"], data["link"], data["port"], data["learning"]) == (
        1450, 1, one.ip, "eth0", 8472, False)
    assert f"inet {one.subnet}.0/32 scope global flannel.1" in one.ns.run(["ip", "addr", "show", "flannel.1"]).stdout
    neighbours = one.ns.run(["ip", "neigh", "show", "dev", "flannel.1", "nud", "permanent"]).stdout
    assert set(neighbours.split("\n")) - {""} == {f"{p.subnet}.0 lladdr {p.mac()} PERMANENT " for p in peers}
    fdb = one.ns.run(["bridge", "fdb", "show", "dev", "flannel.1"]).stdout
    assert set(fdb.split("\n")) - {""} == {f"{p.mac()} dst {p.ip} self permanent" for p in peers}
    send_a_megabyte(one, two)


def send_a_megabyte(source: Node, target: Node) -> None:
    assert source.pod
    assert target.pod
    received: list[int] = []
    with serve_tcp(target.pod, 5000) as server:
        def take() -> None:
            peer, address = server.accept()
            assert address[0] == source.pod_ip, "a pod's address is not masqueraded inside the network"
            while data := peer.recv(65536):
                received.append(len(data))
            peer.close()

        thread = threading.Thread(target=take)
        thread.start()
        with source.pod.enter():
            sock = socket.create_connection((target.pod_ip, 5000), 30)
        sock.sendall(bytes(1 << 20))
        sock.close()
        thread.join(30)
    assert sum(received) == 1 << 20


def test_kill_and_restart_lose_no_packet_and_change_nothing(lasting_site: Site) -> None:
    one, two = lasting_site.nodes
    before, mac, keys = one.state(), one.mac(), lasting_site.etcd.subnets()
    with pinging(one.pod, two.pod_ip, 0.002) as out, pinging(two.pod, one.pod_ip, 0.002) as back:  # a start takes 0.2 s
        one.stop(signal.SIGKILL)
        one.start()
    assert out.sent > 20
    assert (out.lost, back.lost) == (0, 0)
    assert (one.state(), one.mac(), lasting_site.etcd.subnets()) == (before, mac, keys)


def test_term_ends_cleanly_and_leaves_the_data_path(lasting_site: Site) -> None:
    one, two = lasting_site.nodes
    assert one.stop(signal.SIGTERM) == 0
    assert ping_once(one.pod, two.pod_ip)
    one.start()


@pytest.mark.parametrize("damage", [
    "ip link del flannel.1",
    "ip link set flannel.1 down",
    "ip link set flannel.1 address 02:11:11:11:11:11",
    "ip link set flannel.1 mtu 1300",
    "ip route flush dev flannel.1",
    "ip neigh flush dev flannel.1 nud permanent",
    "bridge fdb del {mac} dev flannel.1",
    "ip -4 addr flush dev flannel.1",
    "nft delete table ip flannel-ipv4",
    "nft flush ruleset",
    "nft flush chain ip flannel-ipv4 postrtg",
])
def test_damage_by_hand_is_healed_within_a_second(lasting_site: Site, damage: str) -> None:
    one, two = lasting_site.nodes
    before = one.state()
    harm = damage.format(mac=two.mac()).split()
    took = heals(lambda: one.ns.run(harm), lambda: one.state() == before, f"healed after {damage}", 1.0)
    print(f"{damage}: {took:.2f} s")
    assert ping_once(one.pod, two.pod_ip)


def test_a_revoked_lease_is_taken_back_without_a_gap(lasting_site: Site) -> None:
    (one, two), site = lasting_site.nodes, lasting_site
    key = f"{one.subnet}.0-24"
    before = site.etcd.subnets()[key]
    state = one.state()

    def revoked() -> float:
        with pinging(one.pod, two.pod_ip) as ping:
            site.etcd.ctl("del", f"/coreos.com/network/subnets/{key}")
            until(lambda: site.etcd.subnets().get(key) == before, "the lease is back")
            until(lambda: ping_once(two.pod, one.pod_ip, 0.3), "and the other node has heard of it")
        assert one.state() == state
        print(f"{ping.lost} of {ping.sent} pings lost")
        return ping.lost * 0.01

    in_time(revoked, 0.5, "two drops us while our lease is away, and not for longer")
    assert one.daemon
    assert one.daemon.poll() is None


def test_a_stolen_lease_makes_us_move(site: Site) -> None:
    one, two = site.add_node(), site.add_node()
    one.start()
    two.start()
    old = one.subnet
    thief = {"PublicIP": "192.168.77.99", "PublicIPv6": None, "BackendType": "vxlan",
             "BackendData": {"VNI": 1, "VtepMAC": "02:00:00:00:00:99"}}
    site.etcd.put(f"/coreos.com/network/subnets/{old}.0-24", json.dumps(thief))
    until(lambda: one.subnet != old, "subnet.env has a new subnet")
    until(lambda: f"{old}.0/24 via {old}.0 " in routes(one), "the thief is a peer")
    until(lambda: f"{one.subnet}.0/24" in routes(two), "two has heard of it")
    site.add_pods()
    until(lambda: ping_once(two.pod, one.pod_ip, 0.3), "the new subnet works")


def test_a_pod_is_masqueraded_only_on_its_way_out_of_the_network(lasting_site: Site) -> None:
    (one, two), site = lasting_site.nodes, lasting_site
    site.switch.run(["ip", "route", "add", f"{two.subnet}.0/24", "via", one.ip])
    assert seen_from(site.switch, "192.168.77.254", one.pod) == one.ip, "a pod on its way out"
    assert seen_from(two.pod, two.pod_ip, one.pod) == one.pod_ip, "pod to pod"
    assert seen_from(two.pod, two.pod_ip, one.ns, source=one.ip) == f"{one.subnet}.0", "this host's own address to a remote pod"
    assert seen_from(two.pod, two.pod_ip, site.switch) == f"{one.subnet}.0", "from outside by way of another node"
    site.switch.run(["ip", "route", "add", f"{one.subnet}.0/24", "via", one.ip])
    assert seen_from(one.pod, one.pod_ip, site.switch) == "192.168.77.254", "from outside to a local pod"
    for node in (one, two):
        site.switch.run(["ip", "route", "del", f"{node.subnet}.0/24", "via", one.ip])


def seen_from(server_ns, address, client_ns, source: str = "") -> str:
    with serve_tcp(server_ns, 5001) as server:
        server.settimeout(30)
        with client_ns.enter():
            sock = socket.create_connection((address, 5001), 30, source_address=(source, 0) if source else None)
        with sock:
            peer, found = server.accept()
            peer.close()
    return found[0]


@pytest.mark.slow
def test_etcd_may_die(site: Site) -> None:
    one, two, _ = three(site)
    site.etcd.kill()
    with pinging(one.pod, two.pod_ip) as ping:
        site.etcd.start()
    assert ping.lost == 0
    four = site.add_node()
    four.start()
    until(lambda: f"{four.subnet}.0/24" in routes(one), "peers are still watched")


def test_the_rules_as_the_kernel_lists_them(site: Site) -> None:
    node = site.add_node()
    node.start()
    subnet = re.escape(node.subnet)
    listed = re.sub(subnet + r"\.0/24", "P", node.ns.run(["nft", "-s", "list", "ruleset"]).stdout)
    assert listed == """table ip flannel-ipv4 {
	chain forward {
		type filter hook forward priority filter; policy accept;
		ip saddr 10.5.0.0/16 accept
		ip daddr 10.5.0.0/16 accept
	}

	chain postrtg {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x00004000 == 0x00004000 return
		ip saddr P ip daddr 10.5.0.0/16 return
		ip saddr 10.5.0.0/16 ip daddr P return
		ip saddr != 10.5.0.0/16 ip daddr P return
		ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
		ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
	}

	chain untracked-prerouting {
		type filter hook prerouting priority raw; policy accept;
		udp dport 8472 notrack
	}

	chain untracked-output {
		type filter hook output priority raw; policy accept;
		udp dport 8472 notrack
	}
}
"""
