"""kube-proxy-py in nftables mode, one Service's change among 10,000: API event sent to rule in the kernel.

The kernel's own news tells when. Changes come one at a time, three a second. Targets: half of them in 15 ms, 99 of 100 in 40 ms.
Beside it the layout with a chain a Service, in the same run: `nft -f` alone.
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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _proxy_site import Site, judged, load, packed, percentile, real_time
from proxy_nftables import install_chains

SIZE = 10_000
CHANGES = int(os.environ.get("BENCH_CHANGES", "300"))
FIRST_POD = 200_000
PAUSE = (0.25, 0.40)


def run(json_path: str | None) -> dict[str, Any]:
    with Site(SIZE) as site:
        with real_time() as first:
            site.start()
        site.api.await_watchers()
        time.sleep(2)
        with real_time(), site.monitor() as monitor:
            took = [one(site, monitor, turn) for turn in range(CHANGES)]
    p50, p99 = statistics.median(took), percentile(took, 0.99)
    targets = {
        "p50": judged("one change at 10,000, p50", p50 * 1000, 15.0, "ms"),
        "p99": judged("one change at 10,000, p99", p99 * 1000, 40.0, "ms"),
    }
    chains = 0.0 if os.environ.get("BENCH_NO_CHAINS") else install_chains(SIZE)["change"]
    print(f"max {max(took) * 1000:.1f} ms of {len(took)}; a chain a Service, nft alone: {chains * 1000:.1f} ms")
    result = {"load": load(), "real_time": first, "changes": len(took), "targets": targets, "max_ms": max(took) * 1000,
              "chains_ms": chains * 1000}
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
    return result


def one(site: Site, monitor: socket.socket, turn: int) -> float:
    """Replace an endpoint and wait for the new one in the kernel."""
    time.sleep(random.uniform(*PAUSE))
    drain(monitor)
    number, new = turn * 31 % SIZE, FIRST_POD + turn
    begun = site.api.change(number, 2 * number, new)
    while True:
        if not select.select([monitor], [], [], 10)[0]:
            raise RuntimeError(f"change {turn} never reached the kernel\n" + (site.directory / "log").read_text()[-2000:])
        if packed(new) in monitor.recv(1 << 17):
            return time.perf_counter() - begun


def drain(monitor: socket.socket) -> None:
    while select.select([monitor], [], [], 0)[0]:
        monitor.recv(1 << 17)


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else None)
