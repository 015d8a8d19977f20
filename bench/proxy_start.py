"""kube-proxy-py, cold start at scale: process start to everything programmed, and what it then holds in memory.

A real process reads N Services with 2 endpoints each from an API server that answers at once. Medians. Targets, nftables mode:
10,000 in 2 s, 50,000 in 8 s, growing no faster than linearly, 120 MB at 10,000; of both families at 10,000 at most twice what one
takes; iptables-legacy 4 s at 10,000. A restart finds the rules of its predecessor. Beside it, in the same run, the layout with a
chain a Service, written by `nft -f` from ready made text; that grows with the square, and is left out at 50,000.
Run it on a machine that does nothing else.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _proxy_site import Site, judged, load
from proxy_nftables import install_chains

SIZE = 10_000
ROUNDS = {1_000: 5, 10_000: 5, 50_000: 3}
SECONDS = {10_000: 2.0, 50_000: 8.0}
CHAINS = (1_000, 10_000)
MEMORY, SETTLING = 120.0, 8.0


def run(json_path: str | None) -> dict[str, Any]:
    result: dict[str, Any] = {"load": load(), "seconds": {}, "restart_seconds": {}, "memory_mb": {}, "chains_seconds": {}}
    for size, rounds in ROUNDS.items():
        with Site(size) as site:
            took = starts(site, rounds)
            time.sleep(SETTLING)
            now, most = site.memory()
            site.stop(rules_too=False)
            again = site.start()
        result["seconds"][size], result["memory_mb"][size] = statistics.median(took), {"at rest": now, "most": most}
        result["restart_seconds"][size] = again
        if size in CHAINS:
            result["chains_seconds"][size] = install_chains(size)["install"]
        beside = f"; a chain a Service: {result['chains_seconds'][size]:.2f} s" if size in CHAINS else ""
        print(f"{size:>6} x 2: {', '.join(f'{each:.2f}' for each in took)} s; restart {again:.2f} s; "
              f"{now:.1f} MB, at most {most:.1f} MB{beside}", flush=True)
    with Site(SIZE, dual=True) as site:
        both = statistics.median(starts(site, 3))
    with Site(SIZE, "iptables-legacy") as site:
        legacy = statistics.median(starts(site, 3))
    targets = {f"start {size}": judged(f"cold start, {size} Services x 2", result["seconds"][size], limit, "s")
               for size, limit in SECONDS.items()}
    growth = result["seconds"][50_000] / result["seconds"][SIZE]
    targets["growth"] = judged("growth from 10,000 to 50,000", growth, 5.0, "x")
    targets["memory"] = judged("memory at 10,000 x 2", result["memory_mb"][SIZE]["at rest"], MEMORY, "MB")
    targets["dual"] = judged("both families at 10,000, beside one", both / result["seconds"][SIZE], 2.0, "x")
    targets["legacy"] = judged("cold start, iptables-legacy, 10,000", legacy, 4.0, "s")
    result["targets"] = targets
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
    return result


def starts(site: Site, rounds: int) -> list[float]:
    """Seconds of so many starts, each on a node without rules."""
    took = []
    for _ in range(rounds):
        site.stop()
        took.append(site.start())
    return took


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else None)
