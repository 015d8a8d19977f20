"""The ipip backend: what it decides, and where packets go on a kernel that has IPIP."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from site_of_nodes import Node, Site, ping_once, pinging, until

from flanneld_py.backends.choice import parse_backend
from flanneld_py.backends.ipip import IpipBackend, parse_ipip
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part, decode_lease, encode_lease
from flanneld_py.netconf import parse_netconf
from nodecore.errors import UserError
from nodecore.kernel.model import Address, Ipip, Link, NetState, Route
from nodecore.net import Family
from tests.kernelmodules import need

HERE = ip_address("192.168.77.1")
UNDERLAY = Underlay("eth0", 1500, {Family.IPV4: HERE}, {Family.IPV4: HERE}, (ip_network("192.168.77.0/24"),))
CONFIG = {"Network": "10.5.0.0/16", "Backend": {"Type": "ipip"}}


def lease(subnet: str, public: str, backend: str = "ipip") -> Lease:
    return Lease((Part(ip_network(subnet), ip_address(public)),), backend)


OWN, NEAR, FAR = lease("10.5.1.0/24", "192.168.77.1"), lease("10.5.2.0/24", "192.168.77.2"), lease("10.5.3.0/24", "192.168.80.3")


def device() -> NetState:
    return NetState(
        links=frozenset({Link("flannel.ipip", Ipip(HERE), 1480)}),
        addresses=frozenset({Address("flannel.ipip", ip_address("10.5.1.0"), 32)}),
    )


def through(peer: Lease) -> Route:
    (part,) = peer.parts
    return Route(part.subnet, "flannel.ipip", part.public_ip, onlink=True)


def test_a_device_and_a_route_a_peer() -> None:
    others = [OWN, NEAR, FAR, lease("10.5.9.0/24", "192.168.77.9", "vxlan")]
    wanted = device() | NetState(routes=frozenset({through(NEAR), through(FAR)}))
    assert parse_ipip({}).desired(OWN, others, UNDERLAY) == wanted


def test_direct_routing_leaves_out_the_tunnel_where_there_is_no_router_between() -> None:
    direct = Route(ip_network("10.5.2.0/24"), "eth0", ip_address("192.168.77.2"))
    wanted = device() | NetState(routes=frozenset({direct, through(FAR)}))
    assert parse_ipip({"DirectRouting": True}).desired(OWN, [NEAR, FAR], UNDERLAY) == wanted


def test_a_lease_is_byte_for_byte_flannels() -> None:
    raw = b'{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"ipip"}'
    assert encode_lease(OWN) == raw
    assert decode_lease("10.5.1.0-24", raw) == OWN
    assert (IpipBackend().lease_type, IpipBackend().lease_data(Family.IPV4, "")) == ("ipip", {})


def test_wrong_options_are_named() -> None:
    with pytest.raises(UserError, match=r"Backend.DirectRouting: 1 is not true or false"):
        parse_ipip({"DirectRouting": 1})
    with pytest.raises(UserError, match=r"EnableIPv6.*ipip"):
        parse_backend(parse_netconf(json.dumps({**CONFIG, "EnableIPv6": True, "IPv6Network": "fd00:5::/48"})))
    with pytest.raises(UserError, match="eth0: MTU 80 is too small for ipip"):
        IpipBackend().check(Underlay("eth0", 80, {}, {}))


@pytest.fixture(scope="module")
def ipip_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    need("ipip")
    made = Site(tmp_path_factory.mktemp("ipip"))
    try:
        made.etcd.start()
        made.configure(CONFIG)
        for _ in range(2):
            made.add_node().start()
        made.add_pods()
        one, two = made.nodes
        until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "the network works", 60)
        yield made
    finally:
        made.close()


def routes(node: Node) -> str:
    return node.ns.run(["ip", "route", "show", "dev", "flannel.ipip"], check=False).stdout


@pytest.mark.kernel
@pytest.mark.etcd
@pytest.mark.slow
class TestTraffic:
    def test_state_is_exact(self, ipip_site: Site) -> None:
        one, two = ipip_site.nodes
        assert one.env()["FLANNEL_MTU"] == "1480"
        assert routes(one) == f"{two.subnet}.0/24 via {two.ip} proto 70 onlink \n"
        link = json.loads(one.ns.run(["ip", "-d", "-j", "link", "show", "flannel.ipip"]).stdout)[0]
        data = link["linkinfo"]["info_data"]
        assert (link["mtu"], link["linkinfo"]["info_kind"], data["local"], data["remote"]) == (1480, "ipip", one.ip, "any")

    def test_pods_reach_each_other_up_to_the_mtu(self, ipip_site: Site) -> None:
        from test_udp_backend import df_ping

        one, two = ipip_site.nodes
        assert ping_once(two.pod, one.pod_ip)
        assert ping_once(one.ns, two.pod_ip)
        for node in (one, two):
            for namespace, name in ((node.ns, "pod0"), (node.pod, "eth0")):
                namespace.run(["ip", "link", "set", name, "mtu", "1500"])
        assert df_ping(one, two.pod_ip, 1480)
        assert not df_ping(one, two.pod_ip, 1481)

    def test_restart_loses_no_packet(self, ipip_site: Site) -> None:
        one, two = ipip_site.nodes
        with pinging(one.pod, two.pod_ip, 0.05) as out:
            one.stop(signal.SIGKILL)
            one.start()
        assert (out.sent > 20, out.lost) == (True, 0)

    @pytest.mark.parametrize("damage", ["ip link del flannel.ipip", "ip link set flannel.ipip down",
                                        "ip route flush dev flannel.ipip", "ip link set flannel.ipip mtu 1300"])
    def test_damage_by_hand_is_healed(self, ipip_site: Site, damage: str) -> None:
        one, two = ipip_site.nodes
        before = routes(one)
        one.ns.run(damage.split())
        until(lambda: routes(one) == before and ping_once(one.pod, two.pod_ip, 0.3), f"healed after {damage}", 20)

    def test_a_peer_that_left_is_forgotten(self, ipip_site: Site) -> None:
        one = ipip_site.nodes[0]
        third = ("/coreos.com/network/subnets/10.5.250.0-24", '{"PublicIP":"192.168.77.99","BackendType":"ipip"}')
        ipip_site.etcd.put(*third)
        until(lambda: "10.5.250.0/24" in routes(one), "the third is known", 20)
        one.stop(signal.SIGKILL)
        ipip_site.etcd.ctl("del", third[0])
        one.start()
        until(lambda: "10.5.250.0/24" not in routes(one), "the third is forgotten", 20)
