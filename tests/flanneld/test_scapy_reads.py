"""Scapy as a second opinion on packets: it makes what our decoder reads, and reads what really crossed the underlay."""

from __future__ import annotations

import select
import socket
import time

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from site_of_nodes import Site, ping_once, serve_tcp

from minik8s.lab import frames
from nodecore.kernel.netns import Netns

ETH_P_ALL = 3
PORT = 8472


@pytest.mark.parametrize("vni", [1, 0xABCDEF])
@pytest.mark.parametrize(
    ("flags", "names"), [("S", ("SYN",)), ("PA", ("PSH", "ACK")), ("RA", ("RST", "ACK")), ("FA", ("FIN", "ACK"))]
)
def test_every_header_scapy_makes_is_read(vni: int, flags: str, names: tuple[str, ...]) -> None:
    carried = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:03") / IP(src="10.5.1.2", dst="10.5.2.3", ttl=63)
    carried /= TCP(sport=40000, dport=8080, flags=flags, options=[("MSS", 1410)]) / b"hello"
    carrier = Ether(src="02:77:00:00:01:01", dst="02:77:00:00:01:02") / IP(src="192.168.77.1", dst="192.168.77.2", ttl=64)
    made = Ether(bytes(carrier / UDP(sport=51000, dport=PORT, chksum=0) / VXLAN(vni=vni) / carried))
    read = frames.read(bytes(made))
    assert read
    assert read.size == len(made)
    assert read.vni == made[VXLAN].vni == vni
    outer, outer_ip, udp, _, inner, inner_ip, _ = read.layers
    assert udp == frames.Ports(made[UDP].sport, made[UDP].dport)
    same_headers(outer, outer_ip, made[Ether], made[IP])
    within = made[VXLAN].payload
    same_headers(inner, inner_ip, within, within[IP])
    assert read.tcp == frames.Ports(within[TCP].sport, within[TCP].dport, names)
    assert read.payload == bytes(within[TCP].payload) == b"hello"


def same_headers(ethernet: frames.Ethernet, ip: frames.Ip, their_ethernet: Ether, their_ip: IP) -> None:
    assert (ethernet.source, ethernet.target, ethernet.kind) == (their_ethernet.src, their_ethernet.dst, their_ethernet.type)
    assert (str(ip.source), str(ip.target)) == (their_ip.src, their_ip.dst)
    assert (ip.protocol, ip.ttl, ip.length) == (their_ip.proto, their_ip.ttl, their_ip.len)


def test_what_is_not_vxlan_is_not_taken_for_it() -> None:
    plain = Ether() / IP(src="192.168.77.1", dst="192.168.77.2")
    assert frames.read(bytes(plain / UDP(sport=51000, dport=53) / b"x")) is None
    read = frames.read(bytes(plain / TCP(sport=51000, dport=PORT) / b"x"))
    assert read
    assert (read.vni, read.tunnelled, read.payload) == (None, False, b"x")


def listen(ns: Netns, interface: str) -> socket.socket:
    with ns.enter():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind((interface, 0))
    return sock


def first_tunnelled(sock: socket.socket, source: str, carries: type, seconds: float = 30.0) -> tuple[bytes, Ether]:
    """The first frame on its way from a node that has such a layer inside VXLAN, raw and dissected."""
    end = time.monotonic() + seconds
    while select.select([sock], [], [], max(0.0, end - time.monotonic()))[0]:
        raw = sock.recv(65536)
        frame = Ether(raw)
        if VXLAN not in frame and UDP in frame and frame[UDP].dport == PORT:
            frame[UDP].decode_payload_as(VXLAN)
        if VXLAN in frame and frame[IP].src == source and carries in frame[VXLAN].payload:
            return raw, frame
    raise AssertionError(f"no tunnelled frame from {source} within {seconds} s")


@pytest.mark.kernel
@pytest.mark.etcd
def test_scapy_reads_what_crosses_the_underlay(lasting_site: Site) -> None:
    one, two = lasting_site.nodes
    assert one.pod
    with listen(one.ns, "eth0") as sock:
        assert ping_once(one.pod, two.pod_ip)
        _, frame = first_tunnelled(sock, one.ip, ICMP)
    inner = frame[VXLAN].payload
    assert (frame[IP].src, frame[IP].dst, frame[UDP].dport) == (one.ip, two.ip, PORT)
    assert (frame[VXLAN].vni, int(frame[VXLAN].flags)) == (1, 8)
    assert (inner[Ether].src, inner[Ether].dst) == (one.mac(), two.mac())
    assert (inner[IP].src, inner[IP].dst, inner[ICMP].type) == (one.pod_ip, two.pod_ip, 8)


@pytest.mark.kernel
@pytest.mark.etcd
def test_scapy_and_our_decoder_agree_on_a_captured_frame(lasting_site: Site) -> None:
    one, two = lasting_site.nodes
    assert one.pod
    assert two.pod
    with listen(one.ns, "eth0") as sock, serve_tcp(two.pod, 5001), one.pod.enter():
        socket.create_connection((two.pod_ip, 5001), 30).close()
        raw, frame = first_tunnelled(sock, one.ip, TCP)
    read = frames.read(raw)
    assert read
    outer, outer_ip, udp, _, inner, inner_ip, tcp = read.layers
    within = frame[VXLAN].payload
    same_headers(outer, outer_ip, frame[Ether], frame[IP])
    same_headers(inner, inner_ip, within, within[IP])
    assert (read.vni, udp, read.size) == (frame[VXLAN].vni, frames.Ports(frame[UDP].sport, frame[UDP].dport), len(raw))
    assert tcp == frames.Ports(within[TCP].sport, 5001, ("SYN",))
