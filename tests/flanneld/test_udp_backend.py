"""The udp backend: a TUN device, a relay in plain Python, real packets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from backend_rows import ROWS, RowNode, alive, laid, relay_pid, relays
from site_of_nodes import Site, ping_once, until

from flanneld_py.attend.choice import choose_attendant
from flanneld_py.attend.udp import UdpAttendant
from flanneld_py.backends.choice import parse_backend
from flanneld_py.backends.udp import UdpBackend, parse_udp
from flanneld_py.iface import Underlay
from flanneld_py.lease import Lease, Part, decode_lease, encode_lease
from flanneld_py.netconf import parse_netconf
from flanneld_py.relay import Table, checksum, control_address, refusal
from nodecore.errors import Fault, UserError
from nodecore.kernel.diff import ChangeLink, CreateLink, Put
from nodecore.kernel.model import Address, Link, NetState, Route, Tun, scope_of
from nodecore.kernel.netlink import KernelNetwork
from nodecore.kernel.netns import Netns
from nodecore.net import Family

ROOT = Path(__file__).parents[2]
CONFIG = {"Network": "10.5.0.0/16"}
UNDERLAY = Underlay("eth0", 1500, {Family.IPV4: ip_address("192.168.77.1")}, {Family.IPV4: ip_address("192.168.77.1")})


def lease(subnet: str, public: str, backend: str = "") -> Lease:
    return Lease((Part(ip_network(subnet), ip_address(public)),), backend)


OWN = lease("10.5.1.0/24", "192.168.77.1")


def backend(**options: object) -> UdpBackend:
    return parse_udp(parse_netconf(json.dumps({**CONFIG, "Backend": options})))


# What is decided


def test_no_type_means_udp_as_in_flannel() -> None:
    chosen = parse_backend(parse_netconf(json.dumps(CONFIG)))
    assert isinstance(chosen, UdpBackend)
    assert (chosen.device, chosen.untracked_ports, chosen.mtu(UNDERLAY)) == ("flannel0", (8285,), 1472)
    assert choose_attendant(chosen, UNDERLAY)


def test_the_kernel_holds_a_device_with_a_route_to_the_whole_network() -> None:
    assert backend().desired(OWN, [lease("10.5.2.0/24", "192.168.77.2")], UNDERLAY) == NetState(
        links=frozenset({Link("flannel0", Tun(), 1472)}),
        addresses=frozenset({Address("flannel0", ip_address("10.5.1.0"), 32)}),
        routes=frozenset({Route(ip_network("10.5.0.0/16"), "flannel0")}),
    )


def test_every_lease_is_a_peer_but_ours_and_those_without_an_address() -> None:
    others = [
        lease("10.5.3.0/24", "192.168.77.3"), lease("10.5.2.0/24", "192.168.77.2", "vxlan"), OWN,
        Lease((Part(ip_network("10.5.4.0/24"), None),), ""), lease("10.5.1.0/25", "192.168.77.9"),
    ]
    assert backend().attended(OWN, others, UNDERLAY) == (
        Part(ip_network("10.5.2.0/24"), ip_address("192.168.77.2")), Part(ip_network("10.5.3.0/24"), ip_address("192.168.77.3")),
    )


def test_a_lease_tells_no_backend_byte_for_byte_as_flannel() -> None:
    raw = b'{"PublicIP":"192.168.77.1","PublicIPv6":null}'
    assert encode_lease(OWN) == raw
    assert decode_lease("10.5.1.0-24", raw) == OWN
    assert backend().lease_type == ""


def test_another_port_has_another_device() -> None:
    assert backend(Port=8286).device == "flannel1"
    assert len({UdpBackend(None, port).device for port in range(1, 65536)}) == 65535


@pytest.mark.parametrize(("options", "words"), [
    ({"Port": 0}, "Backend.Port: 0 is not between 1 and 65535"), ({"Port": "x"}, 'Backend.Port: "x" is not a number'),
])
def test_wrong_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        backend(**options)


def test_ipv6_is_refused_by_name() -> None:
    conf = {**CONFIG, "EnableIPv6": True, "IPv6Network": "fd00:5::/48"}
    with pytest.raises(UserError, match=r"EnableIPv6.*udp"):
        parse_backend(parse_netconf(json.dumps(conf)))


def test_an_underlay_without_room_is_refused() -> None:
    with pytest.raises(UserError, match="eth0: MTU 90 is too small"):
        backend().check(Underlay("eth0", 90, {}, {}))


def test_the_longest_subnet_that_fits_has_the_packet() -> None:
    table = Table()
    table.add("10.5.2.0/24", ("192.168.77.2", 8285))
    table.add("10.5.2.128/25", ("192.168.77.3", 8285))
    hops = [table.next_hop(socket.inet_aton(text)) for text in ("10.5.2.1", "10.5.2.129", "10.5.3.1")]
    assert hops == [("192.168.77.2", 8285), ("192.168.77.3", 8285), None]
    table.remove("10.5.2.128/25")
    assert table.next_hop(socket.inet_aton("10.5.2.129")) == ("192.168.77.2", 8285)


def test_a_packet_nobody_takes_is_answered_by_icmp() -> None:
    from scapy.layers.inet import ICMP, IP, UDP

    packet = bytes(IP(src="10.5.1.10", dst="10.5.9.9") / UDP(sport=1000, dport=2000) / b"hello")
    answer = IP(refusal(packet))
    assert (answer.src, answer.dst, answer[ICMP].type, answer[ICMP].code) == ("10.5.9.9", "10.5.1.10", 3, 0)
    assert bytes(answer[ICMP].payload) == packet[:28]
    assert checksum(bytes(answer)[:20]) == checksum(bytes(answer[ICMP])) == 0
    assert refusal(bytes(IP(dst="10.5.9.9") / ICMP())) == b""
    assert refusal(bytes(IP(dst="10.5.9.9", frag=3) / bytes(8))) == b""
    assert refusal(bytes(IP(dst="224.0.0.251") / UDP())) == b""


# What the kernel does

kernel = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
          pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="this kernel has no tun")]


def tell(ns: Netns, **order: object) -> dict:
    with ns.enter(), closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        sock.settimeout(30)
        sock.connect(control_address("flannel0"))
        sock.sendall(json.dumps(order).encode() + b"\n")
        with sock.makefile() as lines:
            return json.loads(lines.readline())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RowNode, RowNode, Site]]:
    """Two nodes with pods on the udp backend, which is what a configuration without a type means."""
    with laid(next(row for row in ROWS if row.name == "udp"), tmp_path_factory.mktemp("udp")) as made:
        yield made


@pytest.mark.etcd
class TestTraffic:
    """What only this backend has: the rest is asked in `test_every_backend.py`."""

    pytestmark = kernel

    def test_the_relay_knows_the_peers_and_is_told_of_once(self, pair: tuple[RowNode, RowNode, Site]) -> None:
        one, two, _ = pair
        (said,) = relays(one.ns)
        assert (said["listen"], said["peers"]) == ([one.ip, 8285], {f"{two.subnet}.0/24": two.ip})
        assert one.log.read_text().count("carried by a Python program") == 1

    def test_a_megabyte_of_tcp(self, pair: tuple[RowNode, RowNode, Site]) -> None:
        from test_network import send_a_megabyte

        send_a_megabyte(*pair[:2])

    def test_a_pod_nobody_has_is_unreachable_at_once(self, pair: tuple[RowNode, RowNode, Site]) -> None:
        one, _, _ = pair
        with one.pod.enter(), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(30)
            with pytest.raises(OSError, match="unreachable"):
                sock.connect(("10.5.255.77", 80))

    def test_it_outlives_the_daemon(self, pair: tuple[RowNode, RowNode, Site]) -> None:
        one, _, _ = pair
        pid = relay_pid(one)
        one.stop(signal.SIGKILL)
        one.start()
        assert relay_pid(one) == pid

    def test_a_killed_relay_is_replaced(self, pair: tuple[RowNode, RowNode, Site]) -> None:
        one, two, _ = pair
        pid = relay_pid(one)
        os.kill(pid, signal.SIGKILL)
        took = until(lambda: ping_once(one.pod, two.pod_ip, 0.05), "a new relay carries packets")
        print(f"a new relay after {took:.2f} s")
        assert relay_pid(one) not in (0, pid)

    def test_another_backend_takes_its_place(self, pair: tuple[RowNode, RowNode, Site]) -> None:
        """The last of these: the device goes, and its relay with it."""
        one, two, site = pair
        pids = [relay_pid(node) for node in (one, two)]
        site.configure({**CONFIG, "Backend": {"Type": "vxlan"}})
        for node in (one, two):
            node.stop(signal.SIGTERM)
            node.start()
        until(lambda: ping_once(one.pod, two.pod_ip, 0.3), "VXLAN works")
        for node, pid in zip((one, two), pids, strict=True):
            assert node.ns.run(["ip", "link", "show", "flannel0"], check=False).returncode == 1
            until(lambda: not alive(pid), "the relay ended")  # noqa: B023


class TestRelay:
    pytestmark = kernel

    @pytest.fixture
    def relay(self) -> Iterator[tuple[Netns, subprocess.Popen[bytes]]]:
        with Netns.create() as ns:
            network = KernelNetwork(ns.path)
            asyncio.run(network.apply([CreateLink(Link("flannel0", Tun(), 1472))]))
            process = self.spawn(ns)
            yield ns, process
            process.kill()
            process.communicate()
            network.close()

    def spawn(self, ns: Netns, *arguments: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "flanneld_py.relay", "flannel0", *arguments]
        process = ns.popen(argv, stderr=subprocess.PIPE, cwd=ROOT)
        until(lambda: list(relays(ns)) or process.poll() is not None, "the relay answers")
        return process

    def test_it_ends_with_its_device(self, relay: tuple[Netns, subprocess.Popen[bytes]]) -> None:
        ns, process = relay
        ns.run(["ip", "link", "del", "flannel0"])
        _, said = process.communicate(timeout=60)
        assert b"the device is gone" in said
        assert process.returncode == 0

    def test_without_its_device_it_does_not_begin(self) -> None:
        with Netns.create() as ns:
            argv = [sys.executable, "-m", "flanneld_py.relay", "flannel0"]
            process = ns.popen(argv, stderr=subprocess.PIPE, cwd=ROOT)
            _, said = process.communicate(timeout=60)
            assert (process.returncode, b"no lasting device flannel0" in said) == (1, True)
            assert ns.run(["ip", "link", "show", "flannel0"], check=False).returncode == 1

    def test_it_ends_when_told(self, relay: tuple[Netns, subprocess.Popen[bytes]]) -> None:
        ns, process = relay
        assert tell(ns, op="stop") == {}
        assert process.wait(60) == 0

    def test_it_ends_when_no_daemon_comes(self, relay: tuple[Netns, subprocess.Popen[bytes]]) -> None:
        ns, process = relay
        tell(ns, op="stop")
        process.wait(60)
        for patience in (0.3, 10.0):  # a machine that is too slow to come to it in time has longer
            lonely = self.spawn(ns, str(patience))
            with ns.enter(), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
                if daemon.connect_ex(control_address("flannel0")):
                    continue
                time.sleep(2 * patience)
                assert lonely.poll() is None, "somebody is with it"
            break
        _, said = lonely.communicate(timeout=60)
        assert b"no daemon" in said

    def test_one_device_has_one_relay(self, relay: tuple[Netns, subprocess.Popen[bytes]]) -> None:
        ns, first = relay
        second = ns.popen([sys.executable, "-m", "flanneld_py.relay", "flannel0"], stderr=subprocess.PIPE, cwd=ROOT)
        _, said = second.communicate(timeout=60)
        assert (second.returncode, b"in use" in said, first.poll()) == (1, True, None)

    @pytest.mark.parametrize("order", [b"nonsense", b"{}", b"[1]", b'{"op": "dance"}', b'{"op": "add", "subnet": "x", "to": 1}'])
    def test_nonsense_is_answered_and_survived(self, relay: tuple[Netns, subprocess.Popen[bytes]], order: bytes) -> None:
        ns, _ = relay
        with ns.enter(), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(control_address("flannel0"))
            sock.sendall(order + b"\n")
            assert "error" in json.loads(sock.recv(4096))
        assert list(relays(ns))

    def test_malformed_packets_are_dropped(self, relay: tuple[Netns, subprocess.Popen[bytes]]) -> None:
        ns, _ = relay
        tell(ns, op="start", own="x", listen=["127.0.0.1", 8285])
        with ns.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for packet in (b"", b"\0", b"E" * 3, struct.pack("!B19x", 0x4F), struct.pack("!B39x", 0x60), os.urandom(1400)):
                sock.sendto(packet, ("127.0.0.1", 8285))
        assert next(relays(ns))["own"] == "x"


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_an_attendant_starts_finds_and_replaces_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    here, changes = ip_address("127.0.0.1"), list[bool]()
    peers = tuple(Part(ip_network(f"10.5.{n}.0/24"), ip_address(f"192.168.77.{n}")) for n in (2, 3))

    async def scenario(ns: Netns) -> None:
        with closing(KernelNetwork()) as network:
            await network.apply([CreateLink(Link("flannel0", Tun(), 1472))])
        first, second = (UdpAttendant(backend(), here, lambda: changes.append(True)) for _ in range(2))
        assert first.serving() is None
        with pytest.raises(Fault):
            await first.add(peers[0])
        await first.start(OWN)
        for peer in peers:
            await first.add(peer)
        assert (second.serving(), second.peers()) == (OWN, peers), "the next daemon finds it as it was"
        await second.remove(peers[0])
        assert (first.serving(), first.peers()) == (OWN, peers[1:])

        moved = UdpAttendant(backend(Port=8285), ip_address("127.0.0.2"), lambda: None)
        assert moved.serving() is None, "it listens on another address"
        await moved.start(OWN)
        assert (moved.serving(), moved.peers()) == (OWN, ())

        (before,) = relays(ns)
        monkeypatch.setattr("flanneld_py.attend.udp.VERSION", 99)
        assert first.serving() is None
        await first.start(OWN)
        (after,) = relays(ns)
        assert before["pid"] != after["pid"]
        os.kill(after["pid"], signal.SIGKILL)
        async with asyncio.timeout(30):
            while not changes:  # its end is told
                await asyncio.sleep(0.01)
        for attendant in (first, second, moved):
            await attendant.close()

    with Netns.create() as ns, ns.enter():
        asyncio.run(scenario(ns))


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_a_tun_device_of_another_program_is_remade() -> None:
    wanted = NetState(links=frozenset({Link("flannel0", Tun(), 1400)}))
    with Netns.create() as ns, closing(KernelNetwork(ns.path)) as network:
        ns.run(["ip", "tuntap", "add", "flannel0", "mode", "tun"])
        assert (await network.read(scope_of(wanted))).link("flannel0") == Link("flannel0", Tun(lasting=False), 1500, up=False)
        from nodecore.kernel.diff import plan_changes

        await network.apply(plan_changes(await network.read(scope_of(wanted)), wanted))
        assert await network.read(scope_of(wanted)) == wanted
        await network.apply([ChangeLink("flannel0", mtu=1300), Put(Address("flannel0", ip_address("10.5.1.0"), 32))])
        assert (await network.read(scope_of(wanted))).link("flannel0") == Link("flannel0", Tun(), 1300)
