"""What the agents cost at rest: memory, and CPU over a while in which nothing happens (BENCH_IDLE_SECONDS, default 60).

Targets: at most 60 MB resident and 1 % of one core for each agent of ours.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from minik8s.lab import control, demo, down, topology
from minik8s.lab.state import State
from minik8s.lab.status import table
from minik8s.lab.steps import Steps
from minik8s.lab.up import up

NODES = 3
SETTLING = 15.0
MEMORY, CPU = 60.0, 1.0
OURS = ("flanneld", "proxy", "kubelet", "apiserver", "controllers", "scheduler")


def run(json_path: str | None) -> dict[str, Any]:
    seconds = float(os.environ.get("BENCH_IDLE_SECONDS", "60"))
    state = State(f"bench-{os.getpid()}")
    try:
        up(state, {"nodes": NODES})
        demo.deploy(demo.Kubectl(state), Steps())
        time.sleep(SETTLING)
        before, begin = reports(state), time.monotonic()
        time.sleep(seconds)
        after, took = reports(state), time.monotonic() - begin
    finally:
        down.down(state)
    agents = {
        f"{node} {name}": {
            "rss_mb": round(report["rss"] / 2**20, 1),
            "cpu_percent": round((report["cpu"] - before[node, name]["cpu"]) / took * 100, 2),
        }
        for (node, name), report in sorted(after.items()) if report["pid"]
    }
    rows = [(name, f"{figures['rss_mb']:.1f}", f"{figures['cpu_percent']:.2f}") for name, figures in agents.items()]
    print(table(rows, ("agent", "MB", "% of a core")))
    worst = {name: figures for name, figures in agents.items() if name.split()[1] in OURS}
    result = {
        "seconds": round(took, 1), "agents": agents, "max_rss_mb": max(a["rss_mb"] for a in worst.values()),
        "max_cpu_percent": max(a["cpu_percent"] for a in worst.values()), "target_rss_mb": MEMORY, "target_cpu_percent": CPU,
    }
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1))
    return result


def reports(state: State) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (node.name, name): report
        for node in topology.nodes(NODES) for name, report in control.services(state.node(node.name).path).items()
    }
