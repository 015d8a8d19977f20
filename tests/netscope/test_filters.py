"""Filters of tcpdump's users, asked of what tunnels carry: the kernel's own verdict, beside libpcap's of the bare packet."""

from __future__ import annotations

import ctypes
import itertools
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from netscope import bpf, filters
from netscope.capture.expression import compiled
from netscope.flow import ICMP, TCP, UDP
from netscope.headers import read
from nodecore.kernel.packetsocket import SO_ATTACH_FILTER
from nodecore.net import parse_address

TAKES = {  # expression: which of PACKETS
    "tcp port 80 and host 10.244.1.5": {"tcp"},
    "not port 22": {"tcp", "udp", "six", "ping", "long", "fragment"},
    "tcp[tcpflags] & tcp-syn != 0": {"tcp", "ssh"},
    "udp and net 10.244.0.0/16": {"udp", "long", "fragment"},
    "ip6 and udp src portrange 1000-2000": {"six"},
    "icmp[icmptype] == icmp-echo": {"ping"},
    "udp port 8472": set(),
    "ip[6:2] & 0x1fff != 0": {"fragment"},
    "udp[10:4] = 0x61626364": {"udp"},
    "dst host fd00::5 or dst port 22": {"six", "ssh"},
}


@pytest.fixture(scope="module")
def packets() -> dict[str, bytes]:
    from scapy.layers.inet import ICMP as PING
    from scapy.layers.inet import IP, IPOption_NOP
    from scapy.layers.inet import TCP as T
    from scapy.layers.inet import UDP as U
    from scapy.layers.inet6 import IPv6

    four = {"src": "10.244.0.9", "dst": "10.244.1.5"}
    return {name: bytes(packet) for name, packet in {
        "tcp": IP(**four) / T(sport=4000, dport=80, flags="S"),
        "ssh": IP(**four) / T(sport=4000, dport=22, flags="S"),
        "udp": IP(**four) / U(sport=1500, dport=53) / (b"\x08\0abcd" + bytes(40)),  # begins as a VXLAN's header does
        "six": IPv6(src="fd00::1", dst="fd00::5") / U(sport=1500, dport=53) / b"zzzz",
        "ping": IP(**four) / PING() / b"zzzz",
        "long": IP(**four, options=[IPOption_NOP()] * 4) / U(sport=1500, dport=54) / b"zzzz",
        "fragment": IP(**four, proto=17, frag=5) / b"ab\0\x16cdefghijklmnop",
    }.items()}


def wrapped(data: bytes) -> Iterator[bytes]:
    """Bare, and in every tunnel."""
    from scapy.layers.inet import IP
    from scapy.layers.inet import UDP as U
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Raw

    yield data
    six = data[0] >> 4 == 6
    for outer in (IP(src="192.168.0.1", dst="192.168.0.2"), IPv6(src="fc00::1", dst="fc00::2")):
        ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x86DD if six else 0x800)
        yield bytes(outer / U(sport=50000, dport=8472) / VXLAN(vni=1) / ether / Raw(data))
        yield bytes(outer / U(sport=50000, dport=4790) / VXLAN(vni=1, flags=0x88, gpid=7) / ether / Raw(data))
        outer[0].setfieldval("nh" if outer.version == 6 else "proto", 41 if six else 4)
        yield bytes(outer / Raw(data))


def taken(program: bytes, packet: bytes) -> bool:
    """What the kernel says."""
    with ExitStack() as stack:
        here, there = (stack.enter_context(closing(each)) for each in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        buffer = ctypes.create_string_buffer(program, len(program))
        there.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)))
        here.send(packet)
        there.settimeout(0)
        try:
            there.recv(1 << 16)
        except BlockingIOError:
            return False
        return True


@pytest.mark.parametrize("text", TAKES)
def test_an_expression_is_asked_of_what_is_inside(text: str, packets: dict[str, bytes]) -> None:
    program = filters.at_innermost(compiled(text, "--filter"))
    for name, data in packets.items():
        for number, packet in enumerate(wrapped(data)):
            assert taken(program, packet) == (name in TAKES[text]), (name, number)


def test_the_outermost_can_be_asked_as_well(packets: dict[str, bytes]) -> None:
    both = filters.all_of((compiled("udp port 8472 and host 192.168.0.1", "o"), filters.at_innermost(compiled("port 80", "i"))))
    bare, four, other, _, six, *_ = wrapped(packets["tcp"])
    assert [taken(both, packet) for packet in (bare, four, other, six)] == [False, True, False, False]
    assert not taken(both, next(itertools.islice(wrapped(packets["udp"]), 1, None)))


def test_ends_of_a_service(packets: dict[str, bytes]) -> None:
    """Its own address, and of whoever answers the one port; fragments bear none."""
    ends = [(parse_address("10.96.0.1"), 0, 0), (parse_address("10.244.1.5"), 80, 0)]
    of_tcp = [*((parse_address(f"10.1.{number // 250}.{number % 250}"), 8080, TCP) for number in range(180)), (*ends[1][:2], TCP)]
    assert len(bpf.of_ends(of_tcp)) < bpf.LARGEST
    for program, expected in (
        (bpf.of_ends(of_tcp), {"tcp"}), (bpf.of_ends(of_tcp, UDP), set()), (bpf.of_ends(of_tcp[:9], 0, [81]), set()),
        (bpf.of_ends(ends), {"tcp", "fragment"}), (bpf.of_ends(ends, TCP), {"tcp"}), (bpf.of_ends(ends, UDP), {"fragment"}),
        (bpf.of_ends(ends, 0, [53]), {"fragment"}), (bpf.of_ends((), 0, [53]), {"udp", "six", "fragment"}),
        (bpf.of_ends((), ICMP), {"ping"}),
    ):
        for name, data in packets.items():
            assert {taken(program, packet) for packet in wrapped(data)} == {name in expected}, (name, expected)


def test_what_is_left_out(packets: dict[str, bytes]) -> None:
    program = filters.none_of(bpf.of_ends((), TCP, [22]))
    for name, data in packets.items():
        assert {taken(program, packet) for packet in wrapped(data)} == {name != "ssh"}, name


def test_a_packet_is_cut() -> None:
    assert filters.cut(bpf.of_everything(), 96) == bpf.INSTRUCTION.pack(bpf.RETURN, 0, 0, 96)


def test_what_the_kernel_knows_beside_the_packet_stays_there() -> None:
    program = compiled("inbound and ip", "--filter")
    assert next(k for *_, k in bpf.INSTRUCTION.iter_unpack(filters.moved(program, 50))) >= filters.BESIDE


def test_a_datagram_without_an_identification_is_known_by_what_it_carries(packets: dict[str, bytes]) -> None:
    stamps = {read(packet, by_payload=True).stamp for packet in wrapped(packets["six"])}  # type: ignore[union-attr]
    translated = packets["six"][:42] + b"\x1f\x90\0\x0c\xab\xcd" + packets["six"][48:]  # another port and checksum
    stamps |= {read(packet, by_payload=True).stamp for packet in wrapped(translated)}  # type: ignore[union-attr]
    assert len(stamps) == 1
    assert stamps != {0}
    other = read(packets["six"][:-1] + b"y", by_payload=True)
    assert other
    assert other.stamp not in stamps
