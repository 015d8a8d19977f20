"""`netscope capture` as its users call it: over ssh, with clocks that differ, read along, a full disk, floods, mistakes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import net_by_hand
import pytest
from labs import until
from net_by_hand import ROOT, VIA, Net

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
NETSCOPE = [sys.executable, "-m", "netscope"]
BEGUN = "capturing on"
FAILING = """
from http.server import BaseHTTPRequestHandler, HTTPServer

class Page(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Page.asked += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"flanneld_sync_failures_total %d" % (Page.asked > 4) + bytes([10]))

HTTPServer(("127.0.0.1", 9), Page).serve_forever()
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        yield net_by_hand.make(stack)


def hosts(net: Net) -> list[str]:
    return [word for letter in "ab" for word in ("--host", net.name(letter))]


@contextmanager
def capture(net: Net, *words: str, via: str = VIA) -> Iterator[subprocess.Popen[str]]:
    """Running, from the moment it says that it captures."""
    child = subprocess.Popen([*NETSCOPE, "capture", *hosts(net), "--via", via, *words], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stderr
    try:
        line = child.stderr.readline()
        assert line.startswith(BEGUN), line + child.stderr.read()
        yield child
    finally:
        child.kill()
        child.wait()


def ended(child: subprocess.Popen[str]) -> str:
    """Its last words, after Ctrl-C."""
    child.send_signal(signal.SIGINT)
    assert child.stderr
    words = child.stderr.read()
    assert child.wait() == 0, words
    return words


def send(net: Net, *texts: bytes) -> None:
    """Datagrams from pod a to the Service, each waited for."""
    with net.pod["a"].enter():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.connect((net.plan.service, 80))
        for text in texts:
            client.send(text)
            net.servers[1].settimeout(30)
            assert net.servers[1].recv(64) == text


def tshark(*words: str) -> list[str]:
    if not shutil.which("tshark"):
        pytest.skip("tshark is not installed")
    return subprocess.run(["tshark", *words], capture_output=True, text=True, check=True).stdout.splitlines()


def points(path: Path) -> list[str]:
    """Where the packets are seen, in the file's order."""
    return tshark("-r", str(path), "-d", "udp.port==8472,vxlan", "-Y", "udp.dstport==80 or udp.dstport==8080", "-T", "fields",
                  "-e", "frame.interface_name")


def way(net: Net) -> list[str]:
    a, b = net.name("a"), net.name("b")
    return [f"{a}/pod", f"{a}/flannel.1", f"{a}/eth0", f"{b}/eth0", f"{b}/flannel.1", f"{b}/pod"]


@pytest.mark.parametrize("live", [(), ("--live",)])
def test_packets_are_in_order_though_a_clock_is_five_seconds_ahead(net: Net, tmp_path: Path, live: tuple[str, ...]) -> None:
    """Node b's tap has another clock: the times it gives packets, and the time it tells."""
    (tmp_path / "ahead.py").write_text(textwrap.dedent("""
        import struct, sys, time
        from netscope.capture.blocks import BLOCK
        from nodecore.kernel.ring import Ring
        take, now = Ring.take, time.time_ns

        def later(block, place):
            return block[:place] + struct.pack("=I", struct.unpack_from("=I", block, place)[0] + 5) + block[place + 4:]

        def take_ahead(self, seconds):
            block = take(self, seconds)
            if block:
                count, place = BLOCK.unpack_from(block)
                block = later(block, 40)
                for _ in range(count):
                    block = later(block, place + 4)
                    place += struct.unpack_from("=I", block, place)[0]
            return block

        if sys.argv.pop(1) == "yes":
            Ring.take, time.time_ns = take_ahead, lambda: now() + 5_000_000_000
        from netscope.__main__ import main
        main()
    """))
    path, start = tmp_path / "skewed.pcapng", VIA.removesuffix("agent").replace("-m netscope", f"{tmp_path}/ahead.py $x")
    script = f"[ {{node}} = {net.name('b')} ] && x=yes || x=no; exec {start} $0"
    with capture(net, "-w", str(path), *live, via=f"sh -c '{script}' agent") as child:
        for text in (b"one", b"two"):
            send(net, text)
            threading.Event().wait(0.3)  # clocks are compared to some tenths of a millisecond
        assert "nothing was lost" in ended(child)
    found = points(path)
    assert [sorted(found[:6]), sorted(found[6:])] == [sorted(way(net))] * 2


def test_it_is_read_while_it_is_written(net: Net) -> None:
    """By tshark, packet by packet, before the capture ends; and when that has seen enough, the capture ends as well."""
    if not shutil.which("tshark"):
        pytest.skip("tshark is not installed")
    with capture(net, "-w", "-", "-f", "udp port 80 or udp port 8080") as child:
        assert child.stdout
        words = ["tshark", "-l", "-r", "-", "-c", "12", "-T", "fields", "-e", "frame.interface_name"]
        reader = subprocess.Popen(words, stdin=child.stdout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        child.stdout.close()
        assert reader.stdout
        send(net, b"one")
        first = [reader.stdout.readline().strip() for _ in range(6)]
        send(net, b"two")
        second = [reader.stdout.readline().strip() for _ in range(6)]
        reader.wait(30)
        send(net, b"three")  # is written to nobody
        assert (first, second) == (way(net), way(net))
        assert child.wait(30) == 0


def test_a_flood_that_is_too_much_is_told(net: Net, tmp_path: Path) -> None:
    """A tap that is stopped takes nothing from its ring of 32 MB: what is too much is counted, said, and in the file."""
    (tmp_path / "slow.py").write_text(textwrap.dedent("""
        import time
        from nodecore.kernel.ring import Ring
        Ring.__init__.__defaults__ = (1,)
        take = Ring.take
        Ring.take = lambda self, seconds: (time.sleep(0.3), take(self, seconds))[1]
        from netscope.__main__ import main
        main()
    """))
    path = tmp_path / "flood.pcapng"
    with capture(net, "--live", "-w", str(path), via=VIA.replace("-m netscope", f"{tmp_path}/slow.py")) as child:
        with net.pod["a"].enter():
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with client:
            for _ in range(4000):
                client.sendto(bytes(1400), (net.plan.pod(2), 9))
        assert child.stderr
        assert "packets came too fast and are missing" in child.stderr.readline()
        words = ended(child)
        assert "came too fast and are missing" in words.splitlines()[-1]
    assert re.search(rb"\x05\x00\x00\x00.{20,40}: [1-9]\d* lost", path.read_bytes(), re.DOTALL)  # a block of statistics


def test_a_disk_that_is_full_is_one_clear_line(net: Net, tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o size=2m none {tmp_path} && exec {sys.executable} -m netscope \"$@\""
    words = ["capture", *hosts(net), "--via", VIA, "-w", str(tmp_path / "x.pcapng")]
    for more in ([], ["--live"]):
        child = subprocess.Popen(["unshare", "--mount", "sh", "-c", script, "sh", *words, *more], cwd=ROOT,
                                 stderr=subprocess.PIPE, text=True)
        assert child.stderr
        assert child.stderr.readline().startswith(BEGUN)
        with net.pod["a"].enter():
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with client:
            for _ in range(2000):
                client.sendto(bytes(1400), (net.plan.pod(2), 9))
        if not more:  # what is in the ring is written in the end
            child.send_signal(signal.SIGINT)
        said = child.stderr.read()
        assert child.wait() == 1, said
        assert "No space left on device" in said.splitlines()[-1]
        assert "Traceback" not in said


@pytest.mark.parametrize(("words", "said"), [
    (["-w", "/proc/x.pcapng"], "--write"), (["-w", "{}/x.pcapng", "pod/nobody"], "'pod/nobody'"),
    (["-w", "{}/x.pcapng", "--on", "c"], "--on: 'c' is no node"), (["-w", "{}/x.pcapng", "--via", "/no/where"], "--via"),
])
def test_a_mistake_is_one_line(net: Net, tmp_path: Path, words: list[str], said: str) -> None:
    done = subprocess.run([*NETSCOPE, "capture", *hosts(net), "--via", VIA, *(word.format(tmp_path) for word in words)],
                          capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert len(done.stderr.splitlines()) == 1 or done.stderr.startswith("Usage:")
    assert list(tmp_path.iterdir()) == []


def test_without_root_it_says_so(tmp_path: Path) -> None:
    words = ["--host", "here", "--via", f"{sys.executable} -m netscope agent", "-w", str(tmp_path / "x.pcapng")]
    done = subprocess.run(["setpriv", "--inh-caps=-all", "--bounding-set=-all", *NETSCOPE, "capture", *words],
                          capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (1, "netscope: here: listening to packets: root is needed\n")


@contextmanager
def sshd(net: Net, scratch: Path) -> Iterator[str]:
    """A real one on both nodes; the command that leads there."""
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(scratch / "key")], check=True)
    shutil.copy(scratch / "key.pub", scratch / "known")
    (scratch / "sshd").write_text(f"HostKey {scratch}/key\nAuthorizedKeysFile {scratch}/known\nStrictModes no\nUsePAM no\n"
                                  "PermitRootLogin yes\nPidFile none\nPort 2222\n")
    command = f"mount -t tmpfs none /run && mkdir /run/sshd && exec {shutil.which('sshd')} -De -f {scratch}/sshd"
    with (scratch / "log").open("w") as log:
        servers = [net.node[letter].popen(["unshare", "--mount", "sh", "-c", command], stderr=log) for letter in "ab"]
    try:
        yield (f"ssh -qF none -i {scratch}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile={scratch}/hosts -p 2222 "
               f"root@{{node}} env PYTHONPATH={ROOT} {sys.executable} -m netscope agent")
    finally:
        for server in servers:
            server.terminate()
            server.wait()


@pytest.mark.skipif(not shutil.which("sshd"), reason="no sshd")
def test_over_ssh_without_a_cluster(net: Net, tmp_path: Path) -> None:
    """Called on node a, which reaches both by their addresses; the expression has an ampersand, which no shell may see."""
    path, (a, b) = tmp_path / "ssh.pcapng", (net.plan.node(number) for number in (1, 2))
    net.on("a", "ip link set lo up")
    with sshd(net, tmp_path) as via:
        until(lambda: (tmp_path / "log").read_text().count("listening on 0.0.0.0") == 2)
        words = ["--host", a, "--host", b, "--via", via, "-w", str(path), "-f", "udp[8] & 0xff = 0x6f and not port 22"]
        child = net.node["a"].popen([*NETSCOPE, "capture", *words], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert child.stderr
        assert child.stderr.readline().startswith(f"{BEGUN} 2 nodes"), child.stderr.read()
        send(net, b"two", b"one")
        ended(child)
    assert sorted(points(path)) == [f"{node}/{link}" for node in (a, b) for link in ("eth0", "flannel.1", "pod")]


@pytest.mark.skipif(not shutil.which("sshd"), reason="no sshd")
def test_ssh_does_not_capture_itself(net: Net, tmp_path: Path) -> None:
    """Each of its packets would make another one."""
    path, node = tmp_path / "all.pcapng", net.plan.node(2)
    with sshd(net, tmp_path) as via:
        until(lambda: (tmp_path / "log").read_text().count("listening on 0.0.0.0") == 2)
        words = ["--host", node, "--via", via, "-w", str(path)]
        child = net.node["a"].popen([*NETSCOPE, "capture", *words], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert child.stderr
        assert child.stderr.readline().startswith(BEGUN), child.stderr.read()
        send(net, b"one")
        ended(child)
    assert len(points(path)) == 3
    assert tshark("-r", str(path), "-Y", "tcp.port==2222") == []


@pytest.mark.parametrize("fault", ["sync failure", "rst"])
def test_it_freezes_with_what_led_up_to_it(net: Net, tmp_path: Path, fault: str) -> None:
    path, url = tmp_path / "frozen.pcapng", "http://127.0.0.1:9/metrics"
    net.on("b", "ip link set lo up")
    with capture(net, "-w", str(path), "--freeze-on", fault, "--metrics", url, "--after", "0.2") as child:
        send(net, b"one")
        agent = net.node["b"].popen([sys.executable, "-c", FAILING])
        try:
            if fault == "rst":
                with net.pod["a"].enter(), socket.socket() as sock, pytest.raises(ConnectionRefusedError):
                    sock.connect((net.plan.pod(2), 9))
            assert child.stderr
            assert child.stderr.readline().startswith("frozen: ")
            assert child.wait(60) == 0
        finally:
            agent.terminate()
            agent.wait()
    assert points(path) == way(net)


def test_a_node_that_goes_away_is_told_and_the_others_go_on(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "gone.pcapng"
    with capture(net, "--live", "-w", str(path)) as child:
        tap = next(pid for pid in os.listdir("/proc") if pid.isdigit() and _is_tap(pid, child.pid, net.name("b")))
        send(net, b"the first")
        until(lambda: path.read_bytes().count(b"the first") == len(way(net)))
        os.kill(int(tap), signal.SIGKILL)
        assert child.stderr
        assert child.stderr.readline() == f"{net.name('b')}: no more comes from there\n"
        send(net, b"two")
        child.send_signal(signal.SIGINT)
        assert f"{net.name('b')}: its tap ended" in child.stderr.read()
        assert child.wait() == 1
    assert points(path) == [*way(net), *way(net)[:3]]


def _is_tap(pid: str, parent: int, node: str) -> bool:
    """Whether a process is the tap that was started for a node (nsenter has become it)."""
    try:
        status, there = Path(f"/proc/{pid}/status").read_text(), Path(f"/proc/{pid}/ns/net").readlink()
    except OSError:
        return False
    return f"PPid:\t{parent}\n" in status and there == Path(f"/proc/{node}/ns/net").readlink()
