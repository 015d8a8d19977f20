"""Replacing Go flanneld on live nodes, one after the other, under traffic: nothing is lost, before, between and after."""

from __future__ import annotations

import json

import pytest
from site_of_nodes import Node, Site, ping_once, pinging

CONFIG = {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}
RULES = """*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.{number}.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"""


def mac(node: Node) -> str:
    return f"aa:35:ff:e7:53:{node.number:02x}"


def left_by_go(site: Site, node: Node, peers: list[Node]) -> None:
    """What Go flanneld 0.20.2 leaves on a node and in etcd, with a peer that left while it was down."""
    for command in (
        f"ip link add flannel.1 address {mac(node)} mtu 1450"
        f" type vxlan id 1 local {node.ip} dev eth0 dstport 8472 nolearning",
        "ip link set flannel.1 up", f"ip addr add 10.5.{node.number}.0/32 dev flannel.1", "sysctl -qw net.ipv4.ip_forward=1",
    ):
        node.ns.run(command.split())
    gone = [(77, "192.168.77.77", "aa:35:ff:e7:53:77")]
    for number, public, theirs in [*((peer.number, peer.ip, mac(peer)) for peer in peers), *gone]:
        for command in (
            f"ip neigh add 10.5.{number}.0 lladdr {theirs} dev flannel.1 nud permanent",
            f"bridge fdb add {theirs} dev flannel.1 dst {public} self permanent",
            f"ip route add 10.5.{number}.0/24 via 10.5.{number}.0 dev flannel.1 onlink",
        ):
            node.ns.run(command.split())
    node.ns.run(["iptables-nft-restore", "--noflush"], input=RULES.format(number=node.number))
    node.subnet_file.write_text(
        f"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.{node.number}.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )
    lease = {"PublicIP": node.ip, "PublicIPv6": None, "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": mac(node)}}
    site.etcd.put(f"/coreos.com/network/subnets/10.5.{node.number}.0-24", json.dumps(lease, separators=(",", ":")))


@pytest.mark.kernel
@pytest.mark.etcd
@pytest.mark.slow
def test_node_by_node_under_traffic(site: Site) -> None:
    site.configure(CONFIG)
    one, two = site.add_node(), site.add_node()
    left_by_go(site, one, [two])
    left_by_go(site, two, [one])
    before, env = site.etcd.subnets(), one.subnet_file.read_text()
    site.add_pods()
    assert one.pod
    assert two.pod
    assert ping_once(one.pod, two.pod_ip)
    with pinging(one.pod, two.pod_ip, 0.002) as there, pinging(two.pod, one.pod_ip, 0.002) as back:
        for node in (one, two):
            node.start("-ip-masq")
    assert (there.lost, back.lost) == (0, 0), f"of {there.sent} and {back.sent}"
    print(f"0 of {there.sent + back.sent} packets lost")
    assert (site.etcd.subnets(), one.subnet_file.read_text()) == (before, env), "not a byte of leases and subnet.env differs"
    assert one.mac() == mac(one)
    assert "10.5.77.0" not in one.state(), "the peer that left is forgotten"
    chains = one.ns.run(["iptables-nft-save"]).stdout
    assert chains.count("-j FLANNEL-POSTRTG") == chains.count("-j FLANNEL-FWD") == 1
