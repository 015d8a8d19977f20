"""One file of all nodes: every packet once at every interface it passed, in order, named, and readable by others."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import net_by_hand
import pytest
from net_by_hand import VIA, Net

from netscope.capture.recording import record

pytestmark = pytest.mark.kernel
SENT = 1000


@pytest.fixture
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        yield net_by_hand.make(stack)


def send(net: Net, count: int) -> None:
    """Numbered datagrams to the Service; each is waited for, so none is lost."""
    server = net.servers[1]
    with net.pod["a"].enter():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.connect((net.plan.service, 80))
        for number in range(count):
            client.send(b"%08d" % number)
            assert server.recv(64) == b"%08d" % number


def test_every_packet_is_there_once_at_every_point(net: Net, tmp_path: Path) -> None:
    from scapy.utils import RawPcapNgReader

    path = tmp_path / "all.pcapng"
    with path.open("wb") as file:
        assert record(net.directory, VIA, [net.plan.pod(1)], lambda: send(net, SENT), file) == 0
    names = {f"{net.name(letter)}/{name}": f"{letter} {name}" for letter in "ab" for name in ("pod", "flannel.1", "eth0")}
    seen: Counter[tuple[str, int]] = Counter()
    times, stamps = [], {}
    with RawPcapNgReader(str(path)) as reader:
        for data, meta in reader:
            text = data[-8:]
            assert text.isdigit()
            point = names[meta.ifname.decode() if isinstance(meta.ifname, bytes) else meta.ifname]
            seen[point, int(text)] += 1
            (comment,) = (each.decode() for each in meta.comments)
            assert comment.startswith("pod/default/a to ")
            stamps.setdefault(int(text), set()).add(comment.rpartition(" ")[2])
            times.append(meta.tshigh << 32 | meta.tslow)
    points = ("a pod", "a flannel.1", "a eth0", "b eth0", "b flannel.1", "b pod")
    assert seen == Counter({(point, number): 1 for point in points for number in range(SENT)})
    assert times == sorted(times)
    assert all(len(found) == 1 for found in stamps.values())  # translated or not, in the tunnel or not
