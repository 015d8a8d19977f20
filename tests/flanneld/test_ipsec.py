"""The ipsec backend with real charons: keys agreed over IKE, and ESP in user space where the kernel has none.

Each node has a /run of its own, where charon keeps its socket and its process number.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from site_of_nodes import Node, Site, ping_once, pinging, until

from flanneld_py.attend import charon
from flanneld_py.backends.choice import parse_backend
from flanneld_py.backends.ipsec import IpsecBackend, connection_name, fence_name, is_of, named_parts
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part
from flanneld_py.netconf import parse_netconf
from nodecore.errors import UserError
from nodecore.kernel.netns import Netns
from nodecore.net import Family

PSK = "1f2e" * 24
CONFIG = {"Network": "10.5.0.0/16", "Backend": {"Type": "ipsec", "PSK": PSK}}
GONE = {"PublicIP": "192.168.77.99", "PublicIPv6": None, "BackendType": "ipsec"}
PLUGINS = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so"
STRONGSWAN = """charon {{
  load_modular = no
  load = random nonce openssl aes sha1 sha2 hmac gmp kdf gcm socket-default {kernel} vici
  filelog {{ stderr {{ default = 1 }} }}
}}
"""


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


class IpsecNode(Node):
    """A node whose /run is its own."""

    holder: subprocess.Popen[bytes]

    def arguments(self, *flags: str, **kw: str) -> list[str]:
        return self.inside(*super().arguments(*flags, **kw))

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", *argv]

    def own_run(self, kernel: str = "kernel-libipsec kernel-netlink") -> None:
        conf = self.directory / "strongswan.conf"
        conf.write_text(STRONGSWAN.format(kernel=kernel))
        script = f"mount -t tmpfs none /run && mount --bind {conf} /etc/strongswan.conf && echo on && exec cat"
        self.holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.holder.stdout
        assert self.holder.stdout.readline() == b"on\n"

    def charon(self) -> int:
        try:
            return int(Path(f"/proc/{self.holder.pid}/root/run/charon.pid").read_text())
        except (OSError, ValueError):
            return 0

    def swanctl(self, *words: str) -> str:
        return self.ns.run(self.inside("swanctl", *words), check=False).stdout

    def end(self) -> None:
        if number := self.charon():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.holder.kill()
        self.holder.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not charon.find_charon() or not os.path.exists(PLUGINS) or not shutil.which("swanctl"):
        pytest.skip("needs strongswan-charon, strongswan-swanctl, libcharon-extra-plugins (kernel-libipsec)")
    made = Site(tmp_path_factory.mktemp("ipsec"))
    try:
        made.etcd.start()
        made.configure(CONFIG)
        for _ in range(2):
            node = made.add_node()
            node.__class__ = IpsecNode
            node.own_run()  # type: ignore[attr-defined]
            node.start()
        made.add_pods()
        yield made
    finally:
        for node in made.nodes:
            if node.daemon:
                node.stop()
            node.end()  # type: ignore[attr-defined]
        made.close()


def knows(node: Node, peer: Node) -> None:
    """Wait until its charon has been told of a peer."""
    name = f"{node.ip}-{node.subnet}.0/24-{peer.subnet}.0/24-{peer.ip}"
    until(lambda: name in node.swanctl("--list-conns"), "charon is told of the peer")  # type: ignore[attr-defined]


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
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "pods reach each other", 30)  # type: ignore[arg-type]
    with overheard(site) as heard:
        assert ping_once(one.pod, two.pod_ip)
        assert ping_once(two.pod, one.pod_ip)
    pods = {socket.inet_aton(one.pod_ip), socket.inet_aton(two.pod_ip)}
    assert not [packet for packet in heard if {packet[12:16], packet[16:20]} & pods], "a pod's packet crossed the wire in plain"
    ends = {socket.inet_aton(one.ip), socket.inet_aton(two.ip)}
    encapsulated = [packet for packet in heard if {packet[12:16], packet[16:20]} == ends and packet[22:24] == b"\x11\x94"]
    assert len(encapsulated) >= 4, "ESP in UDP, to port 4500"
    assert site.etcd.subnets()[f"{one.subnet}.0-24"] == {"PublicIP": one.ip, "PublicIPv6": None, "BackendType": "ipsec"}
    assert one.env()["FLANNEL_MTU"] == "1423"


@with_charon
def test_a_restarted_daemon_finds_its_tunnels(site: Site) -> None:
    one, two = site.nodes
    assert one.pod
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "pods reach each other", 30)  # type: ignore[arg-type]
    before = one.charon()  # type: ignore[attr-defined]
    site.etcd.put("/coreos.com/network/subnets/10.5.98.0-24", json.dumps(GONE))
    until(lambda: "10.5.98.0/24" in one.swanctl("--list-conns"), "another peer's connection")  # type: ignore[attr-defined]
    with pinging(one.pod, two.pod_ip) as ping:
        one.stop(signal.SIGTERM)
        site.etcd.ctl("del", "/coreos.com/network/subnets/10.5.98.0-24")
        one.start()
        until(lambda: "10.5.98.0/24" not in one.swanctl("--list-conns"), "what left meanwhile is gone")  # type: ignore[attr-defined]
    assert (ping.lost, one.charon()) == (0, before)  # type: ignore[attr-defined]


def replaced(node: Node) -> None:
    """Kill its charon and wait for another."""
    before = node.charon()  # type: ignore[attr-defined]
    os.kill(before, signal.SIGKILL)
    until(lambda: node.charon() not in (0, before) and "charon" in node.swanctl("--stats"), "a new charon", 20)  # type: ignore[attr-defined]


@with_charon
def test_a_dead_charon_is_replaced_and_a_peer_that_left_is_forgotten(site: Site) -> None:
    one, two = site.nodes
    assert one.daemon
    replaced(one)
    one.daemon.send_signal(signal.SIGHUP)
    until(lambda: re.search("Reloading.*Running", one.log.read_text(), re.DOTALL), "a new life of the same process")
    replaced(one)  # a child of the life before
    took = until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "pods reach each other again", 30)  # type: ignore[arg-type]
    print(f"traffic after {took:.1f} s")
    site.etcd.put("/coreos.com/network/subnets/10.5.99.0-24", json.dumps(GONE))
    name = f"{one.ip}-{one.subnet}.0/24-10.5.99.0/24-192.168.77.99"
    until(lambda: name in one.swanctl("--list-conns"), "a new peer's connection")  # type: ignore[attr-defined]
    site.etcd.ctl("del", "/coreos.com/network/subnets/10.5.99.0-24")
    until(lambda: name not in one.swanctl("--list-conns"), "is taken away")  # type: ignore[attr-defined]
    assert name not in one.swanctl("--list-sas")  # type: ignore[attr-defined]
    assert ping_once(one.pod, two.pod_ip)  # type: ignore[arg-type]


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
        assert one.swanctl("--list-conns") == ""  # type: ignore[attr-defined]
        until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "pods reach each other over VXLAN")  # type: ignore[arg-type]
    finally:
        site.configure(CONFIG)
        for node in (one, two):
            node.stop(signal.SIGTERM)
            node.start()
    until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "and through ESP again", 20)  # type: ignore[arg-type]


def has_esp() -> bool:
    """Whether the kernel can do ESP."""
    with Netns.create() as ns:
        state = "ip xfrm state add src 1.1.1.1 dst 2.2.2.2 proto esp spi 7 mode tunnel aead rfc4106(gcm(aes))"
        return ns.run([*state.split(), "0x" + "11" * 20, "128"], check=False).returncode == 0


@pytest.fixture(scope="module")
def third(site: Site) -> Iterator[Node]:
    """A node whose charon uses the kernel's own IPsec."""
    node = site.add_node()
    node.__class__ = IpsecNode
    node.own_run("kernel-netlink")  # type: ignore[attr-defined]
    node.start()
    with Netns.create() as pod:
        node.add_pod(pod)
        replaced(node)  # one that starts where there is a bridge sees another world
        yield node


@with_charon
def test_in_the_kernel_nothing_leaves_in_plain(site: Site, third: Node) -> None:
    """Policies are there with or without ESP, and so is the fence."""
    one = site.nodes[0]
    assert third.pod
    knows(third, one)
    policies = " ".join(third.ns.run(["ip", "xfrm", "policy"]).stdout.split())
    own = re.escape(f"src {third.subnet}.0/24 dst ")
    outward = rf"{own}{one.subnet}\.0/24 dir out priority \d+ (ptype main )?tmpl src {third.ip} dst {one.ip} proto esp"
    assert re.search(outward, policies)
    assert len(re.findall(rf"{own}10\.5\.\d+\.0/\d+ dir out action block", policies)) == 8, "a /16 without one /24"
    assert ping_once(third.ns, third.pod_ip), "within the subnet all may pass"
    with overheard(site) as heard:
        ping_once(third.pod, one.pod_ip, 0.3)
        assert not ping_once(third.pod, "10.5.255.9", 0.3)
    assert not [packet for packet in heard if packet[12:16] == socket.inet_aton(third.pod_ip)], "it crossed the wire in plain"


@with_charon
def test_traffic_through_the_kernels_esp(site: Site, third: Node) -> None:
    if not has_esp():
        pytest.skip("this kernel has no ESP (module esp4)")
    until(lambda: ping_once(third.pod, site.nodes[0].pod_ip, 0.3), "pods reach each other", 30)  # type: ignore[arg-type]
