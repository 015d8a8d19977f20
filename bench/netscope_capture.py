"""How many packets a second one core captures without losing any: the tap of `netscope capture` under a flood of datagrams.

The flood, 200 bytes each, comes from iperf3 over a veth pair; the tap writes to a file in memory. Counted is the tap's own
processor time a packet, since on two cores the flood needs more than one itself. In turn with it: tcpdump -w, the same filter.
Target: 200,000 packets a second of one core, none lost. BENCH_CAPTURE_SECONDS (3), BENCH_CAPTURE_ROUNDS (3).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from netscope.capture.blocks import packets
from netscope.capture.spool import Spool
from nodecore.kernel.netns import Netns

SECONDS, ROUNDS = int(os.environ.get("BENCH_CAPTURE_SECONDS", "3")), int(os.environ.get("BENCH_CAPTURE_ROUNDS", "3"))
TARGET = 200_000
TICK = os.sysconf("SC_CLK_TCK")
HERE, THERE = "192.168.60.1", "192.168.60.2"


def run(json_path: str | None) -> dict[str, Any]:
    with Netns.create() as one, Netns.create() as other, tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        one.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(other.pid)])
        for space, address in ((one, HERE), (other, THERE)):
            space.run(["ip", "-batch", "-"], input=f"addr add {address}/24 dev eth0\nlink set eth0 up\n")
        server = other.popen(["iperf3", "-s"], stdout=subprocess.DEVNULL)
        try:
            rounds = [(_ours(other, one, Path(scratch)), _tcpdump(other, one, Path(scratch))) for _ in range(ROUNDS)]
        finally:
            server.terminate()
            server.wait()
    ours = [each for each, _ in rounds]
    theirs = [each for _, each in rounds if each]
    result: dict[str, Any] = {
        "packets a second of one core": round(statistics.median(each["per_core"] for each in ours)), "target": TARGET,
        "flood": round(statistics.median(each["rate"] for each in ours)), "lost": sum(each["lost"] for each in ours),
        "tcpdump": round(statistics.median(each["per_core"] for each in theirs)) if theirs else None,
        "tcpdump lost": sum(each["lost"] for each in theirs), "rounds": rounds,
    }
    for name in ("packets a second of one core", "target", "flood", "lost", "tcpdump", "tcpdump lost"):
        print(f"{name:<30} {result[name]}")
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1))
    return result


def _flood(space: Netns) -> None:
    space.run(["iperf3", "-c", THERE, "-u", "-l", "200", "-b", "0", "-t", str(SECONDS)])


def _ours(listener: Netns, sender: Netns, scratch: Path) -> dict[str, float]:
    path = scratch / "spool"
    with path.open("wb") as file:
        tap = listener.popen([sys.executable, "-m", "netscope", "tap", HERE], stdin=subprocess.PIPE, stdout=file,
                             stderr=subprocess.PIPE)
        assert tap.stdin
        assert tap.stderr
        tap.stdin.write(b"time\n")
        tap.stdin.flush()
        tap.stderr.readline()
        before, begin = _processor(tap.pid), time.monotonic()
        _flood(sender)
        used, took = _processor(tap.pid) - before, time.monotonic() - begin
        tap.stdin.close()
        tap.wait()
    with path.open("rb") as file:
        spool = Spool(file)
        count = sum(1 for block in spool.blocks() for _ in packets(block))
    path.unlink()
    return {"packets": count, "lost": spool.lost, "rate": count / took, "per_core": count / max(used, 1 / TICK)}


def _tcpdump(listener: Netns, sender: Netns, scratch: Path) -> dict[str, float] | None:
    if not shutil.which("tcpdump"):
        return None
    path = scratch / "tcpdump"
    dump = listener.popen(["tcpdump", "-i", "any", "-w", str(path), "-B", "32768", "host", HERE], stderr=subprocess.PIPE)
    assert dump.stderr
    dump.stderr.readline()
    before, begin = _processor(dump.pid), time.monotonic()
    _flood(sender)
    used, took = _processor(dump.pid) - before, time.monotonic() - begin
    dump.terminate()
    words = dump.stderr.read().decode()
    dump.wait()
    found = {name: int(number) for number, name in re.findall(r"(\d+) packets (captured|dropped)", words)}
    path.unlink()
    count = found.get("captured", 0)
    return {"packets": count, "lost": found.get("dropped", 0), "rate": count / took, "per_core": count / max(used, 1 / TICK)}


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK
