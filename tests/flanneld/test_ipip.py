"""What the ipip backend decides; where its packets go is asked in `test_every_backend.py`."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest

from flanneld_py.backends.choice import parse_backend
from flanneld_py.backends.ipip import IpipBackend, parse_ipip
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part, decode_lease, encode_lease
from flanneld_py.netconf import parse_netconf
from nodecore.errors import UserError
from nodecore.kernel.model import Address, Ipip, Link, NetState, Route
from nodecore.net import Family

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
