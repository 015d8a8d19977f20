"""kube-proxy-py in nftables mode under 100 changes a second among 10,000 Services, for five minutes (BENCH_SECONDS to shorten).

Each change is a new endpoint, looked for in the kernel's own news of its rules. Targets: no backlog, that is nothing outstanding
1.5 s after the last change, and half of the last third's changes no later than writes may be held back (a second); at most a
quarter of a core, the proxy and its nft children together. Beside it, in the same run, what the layout with a chain a Service
could do at most: `nft -f` alone. The load of the machine at the start and at the end tells what delays are the machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _proxy_site import Site, judged, load, packed, percentile
from proxy_nftables import install_chains

SIZE, RATE = 10_000, 100
SECONDS = int(os.environ.get("BENCH_SECONDS", "300"))
FIRST_POD = 200_000
PODS = 1 << 18  # addresses that changes take in turn
SETTLING = 3.0


class Seen:
    """When each change was sent, and how long it took to the kernel."""

    def __init__(self, monitor: socket.socket) -> None:
        self.monitor = monitor
        self.sent: dict[bytes, float] = {}
        self.took: list[float] = []
        self.lock = threading.Lock()

    def listen(self) -> None:
        """Hear the kernel's news until the socket is closed."""
        self.monitor.setblocking(True)
        with contextlib.suppress(OSError):
            while datagram := self.monitor.recv(1 << 17):
                now = time.perf_counter()
                with self.lock:
                    for address in [address for address in self.sent if address in datagram]:
                        self.took.append(now - self.sent.pop(address))


def run(json_path: str | None) -> dict[str, Any]:
    with Site(SIZE) as site:
        site.start()
        site.api.await_watchers()
        time.sleep(SETTLING)
        seen = Seen(site.monitor())
        threading.Thread(target=seen.listen, daemon=True).start()
        busy = load()
        before, begun = site.seconds_of_processor(), time.perf_counter()
        for turn in range(SECONDS * RATE):
            time.sleep(max(0.0, begun + turn / RATE - time.perf_counter()))
            change(site, seen, turn)
        took = time.perf_counter() - begun
        used = (site.seconds_of_processor() - before) / took
        time.sleep(1.5)
        left, memory = len(seen.sent), site.memory()[0]
    third = len(seen.took) // 3
    first, last = (statistics.median(part) for part in (seen.took[:third], seen.took[-third:]))
    targets = {
        "cpu": judged(f"{RATE} changes a second for {SECONDS} s: of a core", used * 100, 25.0, "%"),
        "left": judged("... not in the kernel 1.5 s after the last", left, 0, ""),
        "delay": judged("... delay of the last third, p50", last * 1000, 1000.0, "ms"),
    }
    rate = len(seen.took) / took
    p50, p99 = statistics.median(seen.took), percentile(seen.took, 0.99)
    chains = 0.0 if os.environ.get("BENCH_NO_CHAINS") else install_chains(SIZE)["change"]
    print(f"{rate:.1f} changes a second, delay p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, "
          f"of the first third p50 {first * 1000:.0f} ms; {memory:.1f} MB at the end; load {busy[0]}, then {load()[0]}; "
          f"a chain a Service: {chains * 1000:.0f} ms of nft each" + (f", at most {1 / chains:.1f} a second" if chains else ""))
    result = {"load": [busy, load()], "seconds": took, "changes": len(seen.took), "p50_ms": p50 * 1000, "p99_ms": p99 * 1000,
              "memory_mb": memory, "chains_change_ms": chains * 1000, "targets": targets}
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
    return result


def change(site: Site, seen: Seen, turn: int) -> None:
    """Send one; no Service is changed twice in a hundred seconds."""
    number, new = turn * 31 % SIZE, FIRST_POD + turn % PODS
    with seen.lock:
        seen.sent[packed(new)] = time.perf_counter()
    site.api.change(number, 2 * number, new)


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else None)
