"""kube-proxy-py, one Service's change among 10,000, in each mode: API event sent to rule in the kernel.

Changes come one at a time, three a second. nftables and iptables-nft: an endpoint is replaced, and the kernel's own news tells
when; iptables-legacy tells nobody, so an endpoint comes or goes, and the table's size tells. Targets: nftables p50 15 ms, p99
40 ms; iptables p99 100 ms. Beside it the layout with a chain a Service, in the same run: `nft -f` alone. Run it on a machine that
does nothing else. BENCH_CHANGES and BENCH_MODES (names with commas) shorten it.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _proxy_site import Site, judged, load, packed, percentile
from proxy_nftables import install_chains

SIZE = 10_000
CHANGES = int(os.environ.get("BENCH_CHANGES", "200"))
TARGETS = {"nftables": {"p50": 15.0, "p99": 40.0}, "iptables-nft": {"p99": 100.0}, "iptables-legacy": {"p99": 100.0}}
MODES = os.environ.get("BENCH_MODES", ",".join(TARGETS)).split(",")
FIRST_POD = 200_000
PAUSE = (0.25, 0.40)
PATIENCE = 10.0
LOOK = 0.0005  # seconds between two looks at a table's size


def run(json_path: str | None) -> dict[str, Any]:
    result: dict[str, Any] = {"load": load(), "modes": {}}
    for mode in MODES:
        took = measure(mode)
        share = {"p50": statistics.median(took), "p99": percentile(took, 0.99)}
        targets = {name: judged(f"{mode}: one change at 10,000, {name}", share[name] * 1000, limit, "ms")
                   for name, limit in TARGETS[mode].items()}
        print(f"{mode}: p50 {share['p50'] * 1000:.1f} ms, max {max(took) * 1000:.1f} ms of {len(took)}", flush=True)
        result["modes"][mode] = {"ms": [round(each * 1000, 2) for each in took], "targets": targets}
    result["chains_ms"] = 0.0 if os.environ.get("BENCH_NO_CHAINS") else install_chains(SIZE)["change"] * 1000
    print(f"a chain a Service, nft alone: {result['chains_ms']:.1f} ms")
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
    return result


def measure(mode: str) -> list[float]:
    """Seconds from each change to the kernel."""
    with Site(SIZE, mode) as site:
        site.start()
        site.api.await_watchers()
        time.sleep(2)
        if mode == "iptables-legacy":
            with site.size_of_table() as size:
                return [until_resized(site, size, turn) for turn in range(CHANGES)]
        with site.monitor() as monitor:
            return [until_heard(site, monitor, turn) for turn in range(CHANGES)]


def until_heard(site: Site, monitor: socket.socket, turn: int) -> float:
    """Replace an endpoint and wait for the new one in the kernel."""
    time.sleep(random.uniform(*PAUSE))
    drain(monitor)
    number, new = turn * 31 % SIZE, FIRST_POD + turn
    begun = site.api.change(number, 2 * number, new)
    while select.select([monitor], [], [], PATIENCE)[0]:
        if packed(new) in monitor.recv(1 << 17):
            return time.perf_counter() - begun
    raise lost(site, turn)


def until_resized(site: Site, size: Callable[[], bytes], turn: int) -> float:
    """Have an endpoint come, or go again, and wait until the table has another size."""
    time.sleep(random.uniform(*PAUSE))
    number, before = turn // 2 * 31 % SIZE, size()
    more = [FIRST_POD + turn] if turn % 2 == 0 else []
    begun = site.api.change(number, 2 * number, 2 * number + 1, *more)
    while time.perf_counter() < begun + PATIENCE:
        if size() != before:
            return time.perf_counter() - begun
        time.sleep(LOOK)
    raise lost(site, turn)


def lost(site: Site, turn: int) -> RuntimeError:
    return RuntimeError(f"change {turn} never reached the kernel\n" + (site.directory / "log").read_text()[-2000:])


def drain(monitor: socket.socket) -> None:
    while select.select([monitor], [], [], 0)[0]:
        monitor.recv(1 << 17)


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else None)
