"""Doctor's checks of host-gw, ipip, wireguard, udp and ipsec, on nodes' facts: sound ones give no finding, each fault one."""

from __future__ import annotations

import msgspec
import pytest

from netscope import xfrm
from netscope.doctor import findings_in
from netscope.facts import AddressInfo, Facts, IpsecPolicy, Link, LinkAddresses, LinkInfo, Route, Settings, WireguardPeer
from netscope.scene import Objects, Scene
from nodecore.kube.objects import Node

replace = msgspec.structs.replace
DEVICE = {"host-gw": None, "ipip": Link("flannel.ipip", 1480, flags=("UP",), linkinfo=LinkInfo("ipip")),
          "wireguard": Link("flannel-wg", 1420, flags=("UP",), linkinfo=LinkInfo("wireguard")),
          "udp": Link("flannel0", 1472, flags=("UP",), linkinfo=LinkInfo("tun")), "ipsec": None}
XFRM = """src 10.{0}.0.0/24 dst 10.{1}.0.0/24
\tdir out priority 375423 ptype main
\ttmpl src 192.168.50.{0} dst 192.168.50.{1}
\t\tproto esp spi 0xc3a71e7f reqid 1 mode tunnel
src 10.{1}.0.0/24 dst 10.{0}.0.0/24
\tdir fwd priority 375423 ptype main
\ttmpl src 192.168.50.{1} dst 192.168.50.{0}
\t\tproto esp reqid 1 mode tunnel
src 10.{1}.0.0/24 dst 10.{0}.0.0/24
\tdir in priority 375423 ptype main
\ttmpl src 192.168.50.{1} dst 192.168.50.{0}
\t\tproto esp reqid 1 mode tunnel
src 10.{0}.0.0/24 dst 10.0.0.0/16
\tdir out action block priority 395999 ptype main
src 0.0.0.0/0 dst 0.0.0.0/0
\tsocket in priority 0 ptype main
"""
STATES = """src 192.168.50.{0} dst 192.168.50.{1}
\tproto esp spi 0xc3a71e7f reqid 1 mode tunnel
\treplay-window 0 flag af-unspec
\taead rfc4106(gcm(aes)) <<Keys hidden>> 128
src 192.168.50.{1} dst 192.168.50.{0}
\tproto esp spi 0xcb0c7ad4 reqid 1 mode tunnel
src 192.168.50.9 dst 192.168.50.{0}
\tproto esp spi 0x00000000 reqid 1 mode tunnel
"""
WAYS = tuple(DEVICE)


def sound(way: str, *, told: bool = True) -> Scene:
    """Two nodes; `told`: the leases are in the API."""
    prefix = "flannel.alpha.coreos.com/"
    lease = {f"{prefix}backend-type": way, f"{prefix}kube-subnet-manager": "true"} if told else {}
    nodes = [msgspec.convert({
        "metadata": {"name": f"n{number}", "annotations": lease},
        "spec": {"podCIDR": f"10.{number}.0.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.50.{number}"}]}}, Node) for number in (1, 2)]
    return Scene(objects=Objects(nodes=tuple(nodes)), facts={f"n{number}": facts(way, number) for number in (1, 2)})


def facts(way: str, number: int) -> Facts:
    other, device = 3 - number, DEVICE[way]
    route = {
        "host-gw": Route(f"10.{other}.0.0/24", f"192.168.50.{other}", "eth0"),
        "ipip": Route(f"10.{other}.0.0/24", f"192.168.50.{other}", "flannel.ipip"),
        "ipsec": Route("10.250.0.0/16", dev="dummy"),
        "wireguard": Route("10.0.0.0/8", dev="flannel-wg"), "udp": Route("10.0.0.0/8", dev="flannel0")}[way]
    return Facts(
        links=(Link("eth0", 1500, flags=("UP",)), Link("cni0", 1400, flags=("UP",), linkinfo=LinkInfo("bridge")),
               *([device] if device else [])),
        addresses=(LinkAddresses("eth0", (AddressInfo(f"192.168.50.{number}", 24, "global"),)),
                   LinkAddresses("cni0", (AddressInfo(f"10.{number}.0.1", 24, "global"),))),
        routes=(Route("default", "192.168.50.254", "eth0"), Route(f"10.{number}.0.0/24", dev="cni0"), route),
        sysctls={"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"},
        settings=Settings(subnet={"FLANNEL_NETWORK": "10.0.0.0/8", "FLANNEL_SUBNET": f"10.{number}.0.1/24"}, cni=("a.conflist",)),
        peers=(WireguardPeer("flannel-wg", "KEY", (f"10.{other}.0.0/24",)),) if way == "wireguard" else (),
        policies=xfrm.policies_in(XFRM.format(number, other)) if way == "ipsec" else (),
        agreed=xfrm.agreed_in(STATES.format(number, other)) if way == "ipsec" else ())


def changed(scene: Scene, **fields: object) -> list[tuple[str, str]]:
    """What is found, and the command against it, when the first node's facts are these."""
    found = findings_in(replace(scene, facts={**scene.facts, "n1": replace(scene.facts["n1"], **fields)}))
    assert all(each.node == "n1" for each in found)
    return [(each.what, each.fix) for each in found]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_sound_one_gives_no_finding(way: str, *, told: bool) -> None:
    assert findings_in(sound(way, told=told)) == []


@pytest.mark.parametrize(("way", "fix"), [
    ("host-gw", "ip route replace 10.2.0.0/24 via 192.168.50.2"),
    ("ipip", "ip route replace 10.2.0.0/24 via 192.168.50.2 dev flannel.ipip onlink"),
    ("wireguard", "ip route replace 10.0.0.0/8 dev flannel-wg"), ("udp", "ip route replace 10.0.0.0/8 dev flannel0")])
def test_routes_missing_and_wrong(way: str, fix: str) -> None:
    scene = sound(way)
    default, own, _ = scene.facts["n1"].routes
    assert changed(scene, routes=(default, own)) == [("no route to the pods of n2", fix)]
    wrong = Route("10.2.0.0/24", "192.168.50.9", "eth0")
    assert changed(scene, routes=(default, own, wrong)) == [("the route to the pods of n2 leads elsewhere", fix)]


@pytest.mark.parametrize(("way", "device"), [("host-gw", "eth0"), ("ipip", "flannel.ipip")])
def test_a_stale_route(way: str, device: str) -> None:
    scene = sound(way)
    stale = Route("10.9.0.0/24", "192.168.50.2", device)
    assert changed(scene, routes=(*scene.facts["n1"].routes, stale)) == [
        ("a route to 10.9.0.0/24, which no node has", f"ip route del 10.9.0.0/24 via 192.168.50.2 dev {device}")]
    elsewhere = Route("172.30.0.0/16", "192.168.50.2", "eth0")
    assert changed(scene, routes=(*scene.facts["n1"].routes, elsewhere)) == []


def test_wireguard_peers() -> None:
    scene = sound("wireguard")
    peers = scene.facts["n1"].peers
    assert changed(scene, peers=()) == [("no WireGuard peer has the pods of n2", "systemctl restart flanneld")]
    assert changed(scene, peers=(*peers, WireguardPeer("flannel-wg", "OLD", ("10.9.0.0/24",)))) == [
        ("a WireGuard peer on flannel-wg that is no node", "wg set flannel-wg peer OLD remove")]


def test_ipsec() -> None:
    """A policy missing, to another host, or stale; nobody to agree with."""
    scene = sound("ipsec")
    facts = scene.facts["n1"]
    assert [each.direction for each in facts.policies] == ["fwd", "in", "out", "out"]
    assert facts.agreed == (("192.168.50.1", "192.168.50.2"), ("192.168.50.2", "192.168.50.1"))
    assert changed(scene, policies=[each for each in facts.policies if each.direction != "fwd"]) == [
        ("no IPsec policy for the pods of n2", "systemctl restart flanneld")]
    wrong = tuple(replace(each, hosts=("192.168.50.1", "192.168.50.7")) if each.direction == "out" and any(each.hosts) else each
                  for each in facts.policies)
    assert changed(scene, policies=wrong) == [
        ("the IPsec tunnel to the pods of n2 is another host's", "systemctl restart flanneld")]
    assert changed(scene, agreed=facts.agreed[:1]) == [("no keys agreed on with n2", "systemctl restart flanneld")]
    old = IpsecPolicy("out", "10.1.0.0/24", "10.9.0.0/24", ("192.168.50.1", "192.168.50.9"))
    assert changed(scene, policies=(*facts.policies, old)) == [
        ("an IPsec policy for 10.9.0.0/24, which no node has",
         "ip xfrm policy delete src 10.1.0.0/24 dst 10.9.0.0/24 dir out")]


@pytest.mark.parametrize(("way", "room"), [("ipip", 1480), ("wireguard", 1440), ("udp", 1472), ("host-gw", 1500),
                                           ("ipsec", 1423)])
def test_devices_and_sizes(way: str, room: int) -> None:
    scene = sound(way)
    eth0, cni0, *device = scene.facts["n1"].links
    if device:
        (link,) = device
        assert changed(scene, links=(eth0, cni0)) == [
            (f"its lease says {way}, but there is no such device", "systemctl restart flanneld")]
        assert (f"{link.ifname} is down", f"ip link set {link.ifname} up") in changed(
            scene, links=(eth0, cni0, replace(link, flags=())))
        assert changed(scene, links=(eth0, cni0, replace(link, mtu=1500))) == [
            (f"{link.ifname} takes larger packets than the underlay", f"ip link set {link.ifname} mtu {room}")]
    assert changed(scene, links=(eth0, replace(cni0, mtu=9000), *device)) == [
        (f"the pods' bridge takes larger packets than {way} carries",
         f"ip link set cni0 mtu {min([room, *(link.mtu for link in device)])}")]
