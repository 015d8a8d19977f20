"""What netscope costs: capturing a flood of small packets, starting, and a stream that it does not look at.

- Flood: datagrams of 200 bytes at growing rates over a veth pair, cut by the kernel from large buffers, so that the sender is no
  limit; the tap of `netscope capture` writes to a file in memory. Counted: the highest rate at which nothing is lost, and the
  packets for each second of processor time of the tap itself. Beside it: tcpdump -w, the same filter, at the target's rate.
- Start: from nothing until the tap captures.
- Overhead: one iperf3 stream between two pods of a node, on flannel's bridge, beside which a trace of two other pods of that node
  listens in every other second; the same where it listens at the stream's own doors as well, as it does when it knows nobody; and
  with nothing traced, which is how much this machine's noise makes of it. Medians, and how far each may be off.

Targets: 200,000 packets/s, 0.4 s, 2 %. A trace itself: `netscope_trace.py`. BENCH_NETSCOPE_ROUNDS (5), BENCH_NETSCOPE_PAIRS (20).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from netscope import bpf
from netscope.capture.blocks import packets
from netscope.capture.spool import Spool
from netscope.capture.tapping import Wish
from netscope.flow import TCP, End, Flow
from netscope.nodes import Nodes
from netscope.records import Finish, Start
from nodecore.kernel.netns import Netns
from nodecore.net import Family, parse_address

ROUNDS, PAIRS = int(os.environ.get("BENCH_NETSCOPE_ROUNDS", "5")), int(os.environ.get("BENCH_NETSCOPE_PAIRS", "20"))
RATES, TARGET, SECONDS = (200_000, 300_000, 400_000, 500_000), 200_000, 2.0
TICK = os.sysconf("SC_CLK_TCK")
HERE, THERE, SIZE, CUT = "192.168.60.1", "192.168.60.2", 200, 60
UDP_SEGMENT = 103
STEP, SETTLES = 0.1, 0.35  # of a second: what iperf3 counts together, and what is left out of each second at its beginning
POD = "192.168.70.{}"
OTHERS = Start(Flow(Family.IPV4, TCP, 20000, (End(POD.format(4), 8080),)), POD.format(3))
VIA = f"nsenter --net=/proc/{{node}}/ns/net {sys.executable} -m netscope agent"


def run(json_path: str | None) -> dict[str, Any]:
    with ExitStack() as stack:
        floods, dump, starts = _capturing(stack)
        node = stack.enter_context(_site())
        ratios, everywhere, noise = (_overhead(node, question) for question in (OTHERS, Start(OTHERS.flow), None))
    fine = [each["rate"] for each in floods if not each["lost"]]
    result: dict[str, Any] = {
        "packets/s without a loss": round(max(fine, default=0)), "target packets/s": TARGET,
        "packets for a second of the tap's processor time": round(statistics.median(each["per_core"] for each in floods)),
        "tcpdump, for a second of its own": round(dump["per_core"]) if dump else None,
        "start (s)": round(statistics.median(starts), 3), "target start (s)": 0.4,
        "stream while others are traced": _said(ratios), "target stream": 0.98,
        "the same, its own doors listened at": _said(everywhere), "the same, nothing traced": _said(noise),
    }
    for name, value in result.items():
        print(f"{name:<52} {value}")
    for each in (*floods, *([dump] if dump else [])):
        print(f"  {each['name']:<8} {each['rate']:>9,.0f}/s offered {each['offered']:,.0f}/s, lost {each['lost']}")
    result |= {"floods": floods, "starts": starts, "ratios": ratios, "everywhere": everywhere, "noise": noise}
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1))
    return result


def _capturing(stack: ExitStack) -> tuple[list[dict[str, Any]], dict[str, Any] | None, list[float]]:
    listener, sender = (stack.enter_context(Netns.create()) for _ in range(2))
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
    sender.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(listener.pid)])
    for space, address in ((listener, HERE), (sender, THERE)):
        space.run(["ip", "-batch", "-"], input=f"addr add {address}/24 dev eth0\nlink set eth0 up\n")
    sender.run(["ethtool", "-K", "eth0", "tx-udp-segmentation", "off"])
    with listener.enter():
        sink = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # full at once: packets end here
    sink.bind((HERE, 9))
    starts = []
    for _ in range(ROUNDS):
        with _tap(listener, scratch) as (_, took):
            starts.append(took)
    floods = [_ours(listener, sender, scratch, rate) for rate in RATES]
    return floods, _tcpdump(listener, sender, scratch), starts


@contextmanager
def _tap(listener: Netns, scratch: Path) -> Iterator[tuple[int, float]]:
    """Its pid, and how long it took until it captured."""
    begin = time.monotonic()
    with (scratch / "spool").open("wb") as file:
        tap = listener.popen([sys.executable, "-m", "netscope", "tap"], stdin=subprocess.PIPE, stdout=file,
                             stderr=subprocess.PIPE)
    assert tap.stdin
    assert tap.stderr
    wish = Wish((HERE,), bpf.of_ends([(parse_address(HERE), 0, 0)]))
    tap.stdin.write(msgspec.json.encode(wish) + b"\ntime\n")
    tap.stdin.flush()
    tap.stderr.readline()
    took = time.monotonic() - begin
    tap.stdin.write(b"go\n")
    tap.stdin.flush()
    try:
        yield tap.pid, took
    finally:
        tap.stdin.close()
        tap.wait()


def _flood(space: Netns, rate: int) -> tuple[int, float]:
    """Datagrams sent, and the seconds that took."""
    with space.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
        sock.connect((HERE, 9))
        data, sent, begin = bytes(SIZE * CUT), 0, time.monotonic()
        while (passed := time.monotonic() - begin) < SECONDS:
            if sent > rate * passed:
                time.sleep(0.0005)
            else:
                sock.send(data)
                sent += CUT
        return sent, time.monotonic() - begin


def _ours(listener: Netns, sender: Netns, scratch: Path, rate: int) -> dict[str, Any]:
    with _tap(listener, scratch) as (pid, _):
        before = _processor(pid)
        sent, took = _flood(sender, rate)
        used = _processor(pid) - before
    with (scratch / "spool").open("rb") as file:
        spool = Spool()
        count = sum(1 for block in spool.read(file) for _ in packets(block))
    return {"name": "ours", "offered": sent / took, "packets": count, "lost": max(spool.lost, sent - count), "rate": count / took,
            "per_core": count / max(used, 1 / TICK)}


def _tcpdump(listener: Netns, sender: Netns, scratch: Path) -> dict[str, Any] | None:
    if not shutil.which("tcpdump"):
        return None
    path = scratch / "tcpdump"
    dump = listener.popen(["tcpdump", "-i", "any", "-w", str(path), "-B", "32768", "host", HERE], stderr=subprocess.PIPE)
    assert dump.stderr
    dump.stderr.readline()
    before = _processor(dump.pid)
    sent, took = _flood(sender, TARGET)
    used = _processor(dump.pid) - before
    dump.terminate()
    words = dump.stderr.read().decode()
    dump.wait()
    found = {name: int(number) for number, name in re.findall(r"(\d+) packets (captured|dropped)", words)}
    count = found.get("captured", 0)
    return {"name": "tcpdump", "offered": sent / took, "packets": count, "lost": found.get("dropped", 0), "rate": count / took,
            "per_core": count / max(used, 1 / TICK)}


@contextmanager
def _site() -> Iterator[tuple[Netns, Netns, Netns]]:
    """A node and two of its four pods, the second of which runs iperf3 -s; the node has met them all."""
    with ExitStack() as stack:
        node, *pods = (stack.enter_context(Netns.create()) for _ in range(5))
        node.run(["ip", "-batch", "-"], input="link add cni0 type bridge\nlink set cni0 up\n"
                                              f"addr add {POD.format(254)}/24 dev cni0\n")
        for number, pod in enumerate(pods, 1):
            node.run(["ip", "link", "add", f"pod{number}", "type", "veth", "peer", "name", "eth0", "netns", str(pod.pid)])
            node.run(["ip", "-batch", "-"], input=f"link set pod{number} master cni0 up\n")
            pod.run(["ip", "-batch", "-"], input=f"addr add {POD.format(number)}/24 dev eth0\nlink set eth0 up\n")
            with node.enter(), socket.socket() as met:
                met.connect_ex((POD.format(number), 9))
        one, two, *_ = pods
        server = two.popen(["iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while one.run(["iperf3", "-c", POD.format(2), "-n", "1"], check=False).returncode:
            time.sleep(0.05)
        try:
            yield node, one, two
        finally:
            server.terminate()
            server.wait()


def _said(ratios: list[float]) -> str:
    """The median, and twice its standard error, which of a median is 1.25 times a mean's."""
    return f"{statistics.median(ratios):.4f} +-{2.5 * statistics.stdev(ratios) / len(ratios) ** 0.5:.4f}"


def _overhead(site: tuple[Netns, Netns, Netns], question: Start | None) -> list[float]:
    """One stream, beside which a trace is on in every other second: each such second as a part of the mean of the seconds before
    and after it. Without a `question` the same with nothing done, which shows the noise.
    """
    name, seconds = str(site[0].pid), 2 * PAIRS + 1
    with Nodes((name,), VIA) as nodes:
        for _ in range(2):  # what is imported at the first question is no cost of the stream's
            nodes.ask_all(OTHERS, 30)
            nodes.ask_all(Finish(()), 30)
        words = ["iperf3", "-c", POD.format(2), "-t", str(seconds), "-i", str(STEP), "-J"]
        stream = site[1].popen(words, stdout=subprocess.PIPE)
        begin = time.monotonic()
        for second in range(1, seconds):
            time.sleep(max(0.0, begin + second - time.monotonic()))
            if question:
                nodes.ask_all(question if second % 2 else Finish(()), 30)
        done = json.loads(stream.communicate()[0])
    if "error" in done:
        raise RuntimeError(done["error"])
    rates: dict[int, list[float]] = {}
    for each in (interval["sum"] for interval in done["intervals"]):
        if each["start"] % 1 > SETTLES:
            rates.setdefault(int(each["start"]), []).append(each["bits_per_second"])
    mean = {second: statistics.fmean(found) for second, found in rates.items()}
    return [2 * mean[second] / (mean[second - 1] + mean[second + 1]) for second in range(1, seconds - 1, 2)]


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK
