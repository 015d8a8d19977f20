"""One file of all nodes: every packet once at every interface it passed, in order, named, and readable by others."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import net_by_hand
import pytest
from labs import until
from net_by_hand import VIA, Net

from netscope import bpf
from netscope.capture import freezing
from netscope.capture.faults import Watch, failures
from netscope.capture.files import Files, Rotation
from netscope.capture.keeping import Limits
from netscope.capture.recording import Tap, record
from netscope.capture.streaming import stream
from netscope.capture.tally import Tally
from netscope.capture.tapping import Wish
from netscope.command import command
from netscope.flow import TCP, UDP
from nodecore.errors import UserError
from nodecore.net import parse_address

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
SENT = 1000
POINTS = ("a pod", "a flannel.1", "a eth0", "b eth0", "b flannel.1", "b pod")


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        yield net_by_hand.make(stack)


def send(net: Net, count: int, *, flows: bool = False) -> None:
    """Numbered datagrams to the Service, from one port or each from its own; each is waited for, so none is lost."""
    server, client = net.servers[1], None
    for number in range(count):
        if client is None or flows:
            with net.pod["a"].enter():
                client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.bind((net.plan.pod(1), 40000 + number))
            client.connect((net.plan.service, 80))
        client.send(b"%08d" % number)
        assert server.recv(64) == b"%08d" % number


def capture(net: Net, path: Path, act: Callable[[Sequence[Tap]], object], limits: Limits | None = None, *,
            resets: bool = False, protocol: int = 0, ports: Sequence[int] = ()) -> None:
    program = bpf.of_ends([(parse_address(net.plan.pod(1)), 0, 0)], protocol, ports)
    wish, tally = Wish((net.plan.pod(1),), program, limits, resets=resets), Tally()
    with path.open("wb") as file:
        record(net.directory, net.directory.nodes, VIA, wish, lambda taps: void(act(taps)), file, tally)
    assert tally.lost == dict.fromkeys(net.directory.nodes, 0)


def void(_: object) -> None:
    """What an action answered is nobody's concern."""


def read(net: Net, path: Path) -> list[tuple[str, int, int, str]]:
    """Point, number, time and comment of each packet of ours, as an independent reader sees them."""
    from scapy.utils import RawPcapNgReader

    names = {f"{net.name(letter)}/{name}": f"{letter} {name}" for letter in "ab" for name in ("pod", "flannel.1", "eth0")}
    found = []
    with RawPcapNgReader(str(path)) as reader:
        for data, meta in reader:
            if data[-8:].isdigit():
                comment = next(each.decode() for each in meta.comments)
                found.append((names[meta.ifname.decode() if isinstance(meta.ifname, bytes) else meta.ifname], int(data[-8:]),
                              meta.tshigh << 32 | meta.tslow, comment))
    return found


@pytest.fixture(scope="module")
def recorded(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand flows of one packet each."""
    path = tmp_path_factory.mktemp("capture") / "all.pcapng"
    capture(net, path, lambda _: send(net, SENT, flows=True))
    return path


def test_every_packet_is_there_once_at_every_point(net: Net, recorded: Path) -> None:
    found = read(net, recorded)
    assert Counter((point, number) for point, number, _, _ in found) == Counter(
        {(point, number): 1 for point in POINTS for number in range(SENT)})
    assert [when for _, _, when, _ in found] == sorted(when for _, _, when, _ in found)
    assert all(comment.startswith("pod/default/a to ") for *_, comment in found)


def test_before_and_after_translation_are_joined(net: Net, recorded: Path) -> None:
    """A thousand of a thousand: the flow's name is its own, and the same on both sides and both nodes."""
    flows: dict[int, set[str]] = {}
    for point, number, _, comment in read(net, recorded):
        side = re.search(r"flow (\w{8}) (before|after) NAT$", comment)
        assert side, comment
        assert (side[2] == "before") == (point == "a pod")
        assert ("service/default/web" in comment) == (point == "a pod")
        flows.setdefault(number, set()).add(side[1])
    assert len(flows) == SENT
    assert all(len(names) == 1 for names in flows.values())
    assert len(set.union(*flows.values())) == SENT


def test_tshark_reads_it(net: Net, recorded: Path) -> None:
    if not shutil.which("tshark"):
        pytest.skip("tshark is not installed")
    done = subprocess.run(
        ["tshark", "-r", str(recorded), "-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment", "-Y",
         "udp.dstport == 80"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == SENT
    assert all(line.startswith(f"{net.name('a')}/pod\tpod/default/a to service/default/web, udp ") for line in lines)


@pytest.mark.parametrize("limits", [Limits(packets=60), Limits(bytes=12_000), Limits(seconds=0.3)])
def test_a_ring_keeps_the_last(net: Net, tmp_path: Path, limits: Limits) -> None:
    """In three tenths of a second, or on a machine that is busy elsewhere for as long, in a few seconds."""
    pace = 1

    def act(_: Sequence[Tap]) -> None:
        for _ in range(4):
            send(net, 50)
            threading.Event().wait(0.12 * pace)  # a block that is not full is handed over after 20 ms
        send(net, 10)

    def kept() -> list[int]:
        path = tmp_path / f"ring-{pace}.pcapng"
        capture(net, path, act, replace(limits, seconds=limits.seconds * pace))
        return [number for point, number, _, _ in read(net, path) if point == "b pod"]

    at_pod = kept()
    if limits.seconds and at_pod[-10:] != list(range(10)):
        pace = 10
        at_pod = kept()
    assert at_pod[-10:] == list(range(10))
    assert 10 <= len(at_pod) < 210


def test_a_filter_looks_into_the_tunnel(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "filtered.pcapng"
    capture(net, path, lambda _: send(net, 5), protocol=UDP, ports=[8080])
    assert Counter(point for point, *_ in read(net, path)) == dict.fromkeys(POINTS[1:], 5)  # before NAT it is port 80
    capture(net, path, lambda _: send(net, 5), protocol=TCP)
    assert read(net, path) == []


def test_it_freezes_on_a_reset(net: Net, tmp_path: Path) -> None:
    def act(taps: Sequence[Tap]) -> str:
        send(net, 5)
        with net.pod["a"].enter(), socket.socket() as sock, pytest.raises(ConnectionRefusedError):
            sock.connect((net.plan.pod(2), 9))
        return freezing.wait(taps, freezing.parse("sync failure | rst"), "", 60)

    words: list[Any] = []
    capture(net, tmp_path / "frozen.pcapng", lambda taps: words.append(act(taps)), Limits(1 << 20), resets=True)
    assert "rst 10.2.0.2:9 to 10.1.0.2:" in words[0]
    assert Counter(point for point, *_ in read(net, tmp_path / "frozen.pcapng")) == dict.fromkeys(POINTS, 5)


def test_it_is_written_while_packets_come(net: Net, tmp_path: Path) -> None:
    """In files of a limited size, of which the last ones are kept."""
    over = threading.Event()

    class Closed(Files):
        """Somebody reads along until the event, as Wireshark does until it is closed."""

        def flush(self) -> None:
            super().flush()
            if over.is_set():
                raise BrokenPipeError

    seen_before_the_end: list[list[Path]] = []

    def act() -> None:
        send(net, 300)
        seen_before_the_end.append(until(lambda: sorted(tmp_path.iterdir())))
        over.set()

    thread = threading.Thread(target=act, daemon=True)
    files = Closed(str(tmp_path / "live.pcapng"), Rotation(bytes=20_000, keep=3))
    wish, tally = Wish((net.plan.pod(1),), bpf.of_ends([(parse_address(net.plan.pod(1)), 0, 0)])), Tally()
    stream(net.directory, net.directory.nodes, VIA, wish, 30.0, files, tally, thread.start)
    assert not any(tally.lost.values())
    thread.join()
    kept = sorted(tmp_path.iterdir())
    assert seen_before_the_end[0]
    assert len(kept) == 3
    assert kept[-1].name > "live-00003.pcapng"
    assert all(path.stat().st_size < 21_000 for path in kept)
    assert all(re.search(r"flow \w{8} (before|after) NAT$", comment) for path in kept for *_, comment in read(net, path))
    numbers = [number for path in kept for point, number, _, _ in read(net, path) if point == "b pod"]
    assert numbers == list(range(numbers[0], 300))


@pytest.mark.parametrize(("words", "complaint"), [
    (["-w", "-", "--ring-mb", "1"], "--ring-mb"), (["-w", "x.pcapng", "--freeze-on", "rain"], "--freeze-on: 'rain' is none of"),
    (["-w", "x.pcapng", "--files", "3"], "--files"), (["-w", "no/where/x.pcapng"], "--write: 'no/where' is no directory"),
    (["-w", "x.pcapng", "-f", "tcp port http and and"], "--filter: .*syntax error"),
    (["-w", "x.pcapng", "--outer-filter", "ether host 1:2:3:4:5:6"], "--outer-filter: .*ethernet addresses"),
    (["-w", "x.pcapng", "-f", "vlan 5"], "--filter: .*no VLAN support"), (["-w", "x.pcapng", "-f", "ip6 protochain 6"], "a loop"),
    (["-w", "x.pcapng", "--host", "a", "--freeze-on", "probe failure"], "--freeze-on"),
])
def test_flags_that_make_no_sense_are_named(words: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        command.main(["capture", *words], standalone_mode=False)


class Page(BaseHTTPRequestHandler):
    """Metrics of an agent whose syncs fail again and again."""

    failed = 0

    def do_GET(self) -> None:
        Page.failed += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"kubeproxy_sync_proxy_rules_nftables_sync_failures_total {Page.failed}\n".encode())

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def test_failed_syncs_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        Watch(None, [url])
        until(lambda: capfd.readouterr().err.startswith(f"fault sync failure {url} counts 1 more\n"))
        server.shutdown()


class Api(BaseHTTPRequestHandler):
    """A cluster with one failed probe of long ago, and from the third question on a new one."""

    asked = 0

    def do_GET(self) -> None:
        Api.asked += 1
        events = [{"metadata": {"uid": uid}, "count": 1, "message": "HTTP 500", "involvedObject": {"namespace": "x", "name": uid}}
                  for uid in ("old", "new")[: 1 + (Api.asked > 2)]]
        body = json.dumps({"kind": "EventList", "metadata": {"resourceVersion": "1"}, "items": events}).encode()
        self.send_response(200 if "fieldSelector=reason%3DUnhealthy" in self.path else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def test_it_freezes_on_a_failed_probe(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "config").write_text(json.dumps({
            "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "u", "user": {}}]}))
        words = freezing.wait([], freezing.parse("probe failure"), str(tmp_path / "config"), 30)
        server.shutdown()
    assert words == "probe failure of x/new: HTTP 500"


def test_failed_syncs_are_counted_by_their_names() -> None:
    page = ("# HELP x\nkubeproxy_sync_proxy_rules_nftables_sync_failures_total 2.0\n"
            'flanneld_sync_failures_total{backend="vxlan"} 1.0\nkubeproxy_sync_proxy_rules_iptables_restore_failures_total 4\n'
            "kubeproxy_sync_total 99\n")
    assert failures(page) == 7


def test_an_event_that_is_new_or_came_again_is_a_failed_probe() -> None:
    def event(uid: str, count: int) -> dict[str, Any]:
        return {"metadata": {"uid": uid}, "count": count, "message": "no", "involvedObject": {"namespace": "x", "name": uid}}

    old = freezing.new_failure(None, [event("a", 3)])
    assert old == ({"a": 3}, "")
    assert freezing.new_failure({"a": 3}, [event("a", 3)]) == ({"a": 3}, "")
    assert freezing.new_failure({"a": 3}, [event("a", 4)])[1] == "probe failure of x/a: no"
    assert freezing.new_failure({"a": 3}, [event("a", 3), event("b", 1)])[1] == "probe failure of x/b: no"
