"""kube-proxy-py in nftables mode, cold start at scale: process start to everything programmed, and what it then holds in memory.

A real process reads N Services with 2 endpoints each from an API server that answers at once. Medians. Targets: 10,000 in
2 s, 50,000 in 8 s, growing no faster than linearly, 120 MB at 10,000. Beside it, in the same run, the layout with a chain a
Service, written by `nft -f` from ready made text; that grows with the square, and is left out at 50,000.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _proxy_site import Site, judged, load, real_time
from proxy_nftables import install_chains

ROUNDS = {1_000: 5, 10_000: 5, 50_000: 3}
SECONDS = {10_000: 2.0, 50_000: 8.0}
CHAINS = (1_000, 10_000)
MEMORY, SETTLING = 120.0, 8.0


def run(json_path: str | None) -> dict[str, Any]:
    result: dict[str, Any] = {"load": load(), "seconds": {}, "memory_mb": {}, "chains_seconds": {}, "targets": {}}
    for size, rounds in ROUNDS.items():
        with Site(size) as site, real_time() as first:
            took = []
            for _ in range(rounds):
                site.stop()
                took.append(site.start())
            time.sleep(SETTLING)
            now, most = site.memory()
        result["seconds"][size], result["memory_mb"][size] = statistics.median(took), {"at rest": now, "most": most}
        if size in CHAINS:
            result["chains_seconds"][size] = install_chains(size)["install"]
        beside = f"; a chain a Service: {result['chains_seconds'][size]:.2f} s" if size in CHAINS else ""
        print(f"{size:>6} x 2: {', '.join(f'{each:.2f}' for each in took)} s{'' if first else ' (not at real-time priority)'}; "
              f"{now:.1f} MB, at most {most:.1f} MB{beside}", flush=True)
    targets = result["targets"]
    for size, limit in SECONDS.items():
        targets[f"start {size}"] = judged(f"cold start, {size} Services x 2", result["seconds"][size], limit, "s")
    growth = result["seconds"][50_000] / result["seconds"][10_000]
    targets["growth"] = judged("growth from 10,000 to 50,000", growth, 5.0, "x")
    targets["memory"] = judged("memory at 10,000 x 2", result["memory_mb"][10_000]["at rest"], MEMORY, "MB")
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    run(sys.argv[1] if len(sys.argv) > 1 else None)
