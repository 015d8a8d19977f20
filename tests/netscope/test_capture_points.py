"""Every packet of a known transfer is in the file once per point, as tshark sees it: large frames, fragments, VLAN, loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import net_by_hand
import pytest
from net_by_hand import VIA, Net

from netscope import bpf
from netscope.capture.recording import record
from netscope.capture.tally import Tally
from netscope.capture.tapping import Wish
from nodecore.net import Family, parse_address

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.skipif(not shutil.which("tshark"), reason="no tshark")]
POINTS = {f"{letter} {name}" for letter in "ab" for name in ("pod", "flannel.1", "eth0")}
SENT, DATAGRAM = 1_000_000, 4000
UDP_TO_9 = bytes.fromhex("4500001e 00010000 4011f3a0 c0a83209 c0a83208 00090009 000a0000 6162")
Row = dict[str, str]


@pytest.fixture(scope="module", params=list(Family))
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with ExitStack() as stack:
        made = net_by_hand.make(stack, request.param)
        made.on("a", "ip link set lo up")
        for pod in made.pod.values():
            pod.run(["ip", "link", "set", "eth0", "mtu", "1400"])  # nothing is too large for the tunnel, and sent again
        yield made


def captured(net: Net, path: Path, hosts: list[str], act: Callable[[], object]) -> Iterator[tuple[str, Row]]:
    """Where, and what tshark tells of each packet; of a tunnel the inside."""
    fields = ["frame.interface_name", "tcp.seq_raw", "tcp.len", "ip.frag_offset", "ip.len", "ipv6.fraghdr.offset", "ipv6.plen",
              "udp.dstport", "vlan.id", "frame.comment"]
    wish = Wish((), bpf.of_ends([(parse_address(host), 0, 0) for host in hosts]) if hosts else bpf.of_everything())
    with path.open("wb") as file:
        record(net.directory, net.directory.nodes, VIA, wish, lambda _: void(act()), file, Tally())
    done = subprocess.run(
        ["tshark", "-r", str(path), "-d", "udp.port==8472,vxlan", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE",
         "-T", "fields", "-E", "occurrence=l", *(word for name in fields for word in ("-e", name))],
        capture_output=True, text=True, check=True)
    names = {f"{net.name(letter)}/": f"{letter} " for letter in "ab"}
    for line in done.stdout.splitlines():
        row = dict(zip(fields, line.split("\t"), strict=True))
        node, slash, link = row["frame.interface_name"].partition("/")
        yield names[node + slash] + link, row


def void(_: object) -> None:
    """What an action answered is nobody's concern."""


def transfer(net: Net) -> None:
    """A stream from pod a to the Service, as fast as it goes, until the other end has all of it."""
    def take() -> None:
        taken, _ = net.servers[0].accept()
        with taken:
            while taken.recv(1 << 16):
                pass

    thread = threading.Thread(target=take)
    thread.start()
    with net.pod["a"].enter():
        client = socket.socket(net.plan.family.af)
    with client:
        client.connect((net.plan.service, 80))
        client.sendall(bytes(SENT))
    thread.join(30)
    assert not thread.is_alive()


def fragments(net: Net) -> None:
    """One datagram that fits into no frame, to pod b itself."""
    with net.pod["a"].enter():
        client = socket.socket(net.plan.family.af, socket.SOCK_DGRAM)
    with client:
        client.connect((net.plan.pod(2), 8080))
        client.send(bytes(DATAGRAM))
        net.servers[1].settimeout(30)
        assert len(net.servers[1].recv(1 << 16)) == DATAGRAM


def whole(pieces: list[tuple[int, int]], size: int) -> bool:
    """Whether these (begin, length) are all bytes of something."""
    end = min(begin for begin, _ in pieces)
    last = end + size
    for begin, length in sorted(pieces):
        if begin > end:
            return False
        end = max(end, begin + length)
    return end == last


def how_much(pieces: list[tuple[int, int]]) -> int:
    """All of it, what was sent again as well: on a busy machine TCP does that, and then every point has seen it."""
    return sum(length for _, length in pieces)


def test_a_stream_of_large_frames(net: Net, tmp_path: Path) -> None:
    """Where segmentation is left to the link, frames have up to 64 kB: they are in it as they are."""
    pieces: dict[str, list[tuple[int, int]]] = defaultdict(list)
    largest = 0
    for point, row in captured(net, tmp_path / "tcp.pcapng", [net.plan.pod(1)], lambda: transfer(net)):
        if int(row["tcp.len"] or 0) and row["frame.comment"].startswith("pod/default/a to "):
            pieces[point].append((int(row["tcp.seq_raw"]), int(row["tcp.len"])))
            largest = max(largest, int(row["tcp.len"]))
    assert pieces.keys() == POINTS
    assert all(whole(found, SENT) for found in pieces.values()), {point: sorted(found) for point, found in pieces.items()}
    assert len(set(map(how_much, pieces.values()))) == 1, "what is shown twice was sent twice"
    assert largest > 10_000


def test_a_datagram_in_fragments(net: Net, tmp_path: Path) -> None:
    pieces: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for point, row in captured(net, tmp_path / "udp.pcapng", [net.plan.pod(1)], lambda: fragments(net)):
        if net.plan.family is Family.IPV4:
            pieces[point].append((8 * int(row["ip.frag_offset"]), int(row["ip.len"]) - 20))
        elif row["ipv6.fraghdr.offset"]:
            pieces[point].append((8 * int(row["ipv6.fraghdr.offset"]), int(row["ipv6.plen"]) - 8))
    assert pieces.keys() == POINTS
    assert all(len(found) > 2 and whole(found, DATAGRAM + 8) for found in pieces.values()), pieces
    assert set(map(how_much, pieces.values())) == {DATAGRAM + 8}


def test_a_tag_of_a_vlan_and_what_a_node_sends_to_itself(net: Net, tmp_path: Path) -> None:
    """A tag comes as part of the frame where it is sent, and beside it where it arrives."""
    def act() -> None:
        with net.node["a"].enter():
            raw, client, server = socket.socket(socket.AF_PACKET, socket.SOCK_RAW), *(
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        with raw, client, server:
            raw.bind(("eth0", 0))
            raw.send(bytes.fromhex("ffffffffffff 02000000000a 81000005 0800") + UDP_TO_9)
            server.bind(("127.0.0.1", 9))
            server.settimeout(30)
            client.sendto(b"to itself", ("127.0.0.1", 9))
            assert server.recv(64) == b"to itself"

    found = captured(net, tmp_path / "vlan.pcapng", [], act)
    seen = sorted((point, row["vlan.id"]) for point, row in found if row["udp.dstport"] == "9")
    assert seen == [("a eth0", "5"), ("a lo", ""), ("b eth0", "5")]
