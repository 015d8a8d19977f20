"""The ipsec backend: what it decides, and what it does with real charons, with ESP in user space where the kernel has none.

Where packets go is asked in `test_every_backend.py`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from backend_rows import PSK, ROWS, IpsecNode, KernelIpsecNode, laid, need_esp
from site_of_nodes import Site, ping_once, until

from flanneld_py.attend import charon
from flanneld_py.backends.choice import parse_backend
from flanneld_py.backends.ipsec import IpsecBackend, connection_name, fence_name, is_of, named_parts
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import parse_netconf
from nodecore.errors import UserError
from nodecore.kernel.netns import Netns
from nodecore.net import Family

CONFIG = {"Network": "10.5.0.0/16", "Backend": {"Type": "ipsec", "PSK": PSK}}
GONE = {"PublicIP": "192.168.77.99", "PublicIPv6": None, "BackendType": "ipsec"}
IN_USER_SPACE = next(row for row in ROWS if row.kind is IpsecNode)


def with_charon(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.kernel(pytest.mark.etcd(pytest.mark.slow(test)))  # type: ignore[no-any-return]


def part(number: int) -> Part:
    return Part(ip_network(f"10.5.{number}.0/24"), ip_address(f"192.168.77.{number}"))


# --- decisions ---------------------------------------------------------------------------------------------------


def test_options() -> None:
    backend = parse_backend(parse_netconf(json.dumps(CONFIG)))
    assert backend == IpsecBackend(PSK, network=ip_network("10.5.0.0/16"))
    assert PSK not in repr(backend), "a key is told to nobody"
    underlay = Underlay("eth0", 1500, {Family.IPV4: part(1).public_ip}, {}, (), ipv6=True)  # type: ignore[dict-item]
    assert (backend.mtu(underlay), replace(backend, udp_encap=True).mtu(underlay)) == (1423, 1415)  # type: ignore[type-var]
    for proposal, mtu in (("aes128-sha256", 1423), ("aes256-sha512-modp2048", 1407), ("aes256gcm16-sha512", 1423)):
        assert replace(backend, esp_proposal=proposal).mtu(underlay) == mtu  # type: ignore[type-var]
    own, peer = Lease((part(1),), "ipsec"), Lease((part(2),), "ipsec")
    assert backend.attended(own, [own, peer, replace(peer, backend="vxlan")], underlay) == (part(2),)


@pytest.mark.parametrize(("change", "words"), [
    ({"PSK": "x" * 95}, "Backend.PSK: 95 characters are too few"),
    ({"PSK": 3}, "Backend.PSK: 3 is not a text"),
    ({"UDPEncap": "yes"}, 'Backend.UDPEncap: "yes" is not true or false'),
])
def test_refusals(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_backend(parse_netconf(json.dumps(CONFIG | {"Backend": CONFIG["Backend"] | change})))  # type: ignore[operator]
    with pytest.raises(UserError, match="EnableIPv6"):
        parse_backend(parse_netconf(json.dumps(CONFIG | {"EnableIPv6": True, "IPv6Network": "fd00:5::/48"})))


def test_a_connection_tells_its_peer() -> None:
    name = connection_name(part(1), part(2))
    assert name == "192.168.77.1-10.5.1.0/24-10.5.2.0/24-192.168.77.2"
    assert named_parts(name) == (part(1), part(2))
    assert named_parts("office") is None
    assert named_parts("1.2.3.4-10.5.1.1/24-10.5.2.0/24-5.6.7.8") is None, "no subnet starts at .1"
    ours, theirs = ip_network("10.5.0.0/16"), ip_network("10.6.0.0/16")
    of_ours = [one for one in (name, fence_name(ours), fence_name(theirs), "office") if is_of(one, ours)]
    assert of_ours == [name, fence_name(ours)], "another flanneld on this host may use the same charon"
    assert is_of(fence_name(theirs), None)
    assert not is_of("office", None)


def test_a_missing_charon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charon, "PLACES", ("/nonexistent",))
    monkeypatch.setattr(charon, "SOCKET", "/nonexistent/charon.vici")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match=r"'ipsec' needs strongSwan's charon.*strongswan-swanctl"):
        charon.Charon()


# --- with charon -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with laid(IN_USER_SPACE, tmp_path_factory.mktemp("ipsec")) as (_, _, made):
        yield made


@contextmanager
def overheard(site: Site) -> Iterator[list[bytes]]:
    """Every IP packet that crosses the switch meanwhile."""
    heard: list[bytes] = []
    with site.switch.enter():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    with wire:
        wire.setblocking(False)
        yield heard
        with suppress(BlockingIOError):
            while True:
                packet, (_, protocol, *_) = wire.recvfrom(2048)
                if protocol == 0x0800:
                    heard.append(packet)


@with_charon
def test_pods_reach_each_other_and_nobody_can_read_it(site: Site) -> None:
    one, two = site.nodes
    assert one.pod
    assert two.pod
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "pods reach each other")
    with overheard(site) as heard:
        assert ping_once(one.pod, two.pod_ip)
        assert ping_once(two.pod, one.pod_ip)
    pods = {socket.inet_aton(one.pod_ip), socket.inet_aton(two.pod_ip)}
    assert not [packet for packet in heard if {packet[12:16], packet[16:20]} & pods], "a pod's packet crossed the wire in plain"
    ends = {socket.inet_aton(one.ip), socket.inet_aton(two.ip)}
    encapsulated = [packet for packet in heard if {packet[12:16], packet[16:20]} == ends and packet[22:24] == b"\x11\x94"]
    assert len(encapsulated) >= 4, "ESP in UDP, to port 4500"


@with_charon
def test_a_restarted_daemon_finds_the_charon_it_started(site: Site) -> None:
    one = site.nodes[0]
    before, tunnels = one.charon(), installed(one)
    one.stop(signal.SIGTERM)
    one.start()
    assert one.charon() == before
    assert tunnels
    assert tunnels <= installed(one)
    assert json.loads(one.show("-o", "json"))["mtu"] == IN_USER_SPACE.mtu


def installed(node: IpsecNode) -> set[str]:
    """The tunnels its charon has, by what they are told by when packets come in."""
    return set(re.findall(r"^\s+in\s+([0-9a-f]{8})", node.swanctl("--list-sas", "--noblock"), re.M))


def replaced(node: IpsecNode) -> None:
    """Kill its charon and wait for another."""
    before = node.charon()
    os.kill(before, signal.SIGKILL)
    until(lambda: node.charon() not in (0, before) and "charon" in node.swanctl("--stats"), "a new charon")


@with_charon
def test_a_dead_charon_is_replaced_and_a_peer_that_left_is_forgotten(site: Site) -> None:
    one, two = site.nodes
    assert one.daemon
    replaced(one)
    one.daemon.send_signal(signal.SIGHUP)
    until(lambda: re.search("Reloading.*Running", one.log.read_text(), re.DOTALL), "a new life of the same process")
    replaced(one)  # a child of the life before
    took = until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "pods reach each other again")
    print(f"traffic after {took:.1f} s")
    site.etcd.put("/coreos.com/network/subnets/10.5.99.0-24", json.dumps(GONE))
    name = f"{one.ip}-{one.subnet}.0/24-10.5.99.0/24-192.168.77.99"
    until(lambda: name in one.swanctl("--list-conns"), "a new peer's connection")
    site.etcd.ctl("del", "/coreos.com/network/subnets/10.5.99.0-24")
    until(lambda: name not in one.swanctl("--list-conns"), "is taken away")
    until(lambda: name not in one.swanctl("--list-sas"), "with its tunnels")
    assert ping_once(one.pod, two.pod_ip)


@with_charon
def test_another_backend_takes_the_tunnels_away(site: Site) -> None:
    one, two, *_ = site.nodes
    told = one.ns.run(one.arguments("--cleanup", "--dry-run")).stdout
    assert f"delete connection {one.ip}-{one.subnet}.0/24-{two.subnet}.0/24-{two.ip} of charon" in told
    site.configure(CONFIG | {"Backend": {"Type": "vxlan"}})
    try:
        for node in (one, two):
            node.stop(signal.SIGTERM)
            node.start()
        assert one.swanctl("--list-conns") == ""
        until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "pods reach each other over VXLAN")
    finally:
        site.configure(CONFIG)
        for node in (one, two):
            node.stop(signal.SIGTERM)
            node.start()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "and through ESP again")


@pytest.fixture(scope="module")
def third(site: Site) -> Iterator[IpsecNode]:
    """A node whose charon uses the kernel's own IPsec."""
    site.kind = KernelIpsecNode
    node = site.add_node()
    node.start()
    with Netns.create() as pod:
        node.add_pod(pod)
        replaced(node)  # one that starts where there is a bridge sees another world
        yield node


@with_charon
def test_in_the_kernel_nothing_leaves_in_plain(site: Site, third: IpsecNode) -> None:
    """Policies are there with or without ESP, and so is the fence."""
    one = site.nodes[0]
    assert third.pod
    name = f"{third.ip}-{third.subnet}.0/24-{one.subnet}.0/24-{one.ip}"
    until(lambda: name in third.swanctl("--list-conns"), "charon is told of the peer")
    own = re.escape(f"src {third.subnet}.0/24 dst ")
    outward = rf"{own}{one.subnet}\.0/24 dir out priority \d+ (ptype main )?tmpl src {third.ip} dst {one.ip} proto esp"

    def policies() -> str:
        return " ".join(third.ns.run(["ip", "xfrm", "policy"]).stdout.split())

    until(lambda: re.search(outward, policies()), "and the kernel by it")
    fence = rf"{own}10\.5\.\d+\.0/\d+ dir out action block"
    until(lambda: len(re.findall(fence, policies())) == 8, "the fence around all: a /16 without one /24")
    assert ping_once(third.ns, third.pod_ip), "within the subnet all may pass"
    with overheard(site) as heard:
        ping_once(third.pod, one.pod_ip, 0.3)
        assert not ping_once(third.pod, "10.5.255.9", 0.3)
    assert not [packet for packet in heard if packet[12:16] == socket.inet_aton(third.pod_ip)], "it crossed the wire in plain"


@with_charon
def test_the_kernels_esp_and_one_in_user_space_understand_each_other(site: Site, third: IpsecNode) -> None:
    need_esp()
    until(lambda: ping_once(third.pod, site.nodes[0].pod_ip, 0.3), "pods reach each other")
