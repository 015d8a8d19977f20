"""How long `netscope trace` takes as a whole, from the start of its process until the drawing is there and it has ended.

In a lab of three nodes with the demo's pods, through the API, a new process each time: from a pod to a pod of its own node (a
local path), to a pod of another node, and to a Service with an endpoint on each node. BENCH_LAB: the name of a lab that runs
and has the demo; else one is brought up. BENCH_TRACE_ROUNDS (9). Target: a local path in 1 s.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from minik8s.lab import demo, down
from minik8s.lab.enter import way_into_nodes
from minik8s.lab.state import State
from minik8s.lab.steps import Steps
from minik8s.lab.up import up

ROUNDS = int(os.environ.get("BENCH_TRACE_ROUNDS", "9"))
TARGET = 1.0


def run(json_path: str | None) -> dict[str, Any]:
    name = os.environ.get("BENCH_LAB", "")
    state = State(name or f"bench-{os.getpid()}")
    try:
        if not name:
            up(state, {"nodes": 3})
            demo.deploy(demo.Kubectl(state), Steps())
        figures = _measured(state)
    finally:
        if not name:
            down.down(state)
    result = {"rounds": ROUNDS, "target local (s)": TARGET, "load": os.getloadavg()[0], **figures}
    for what, value in result.items():
        print(f"{what:<34} {value}")
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1))
    return result


def _measured(state: State) -> dict[str, dict[str, float]]:
    pods = json.loads(demo.Kubectl(state).run("-n", demo.NAMESPACE, "get", "pods", "-o", "json"))["items"]
    client = next(pod for pod in pods if pod["metadata"]["labels"]["app"] == "client")
    here = client["spec"]["nodeName"]
    web = [pod for pod in pods if pod["metadata"]["labels"]["app"] == "web"]
    local, other = (next(pod["metadata"]["name"] for pod in web if (pod["spec"]["nodeName"] == here) is same)
                    for same in (True, False))
    targets = {"local path": f"pod/{local}:8080", "to another node": f"pod/{other}:8080", "Service on three nodes": "svc/web:80"}
    surroundings = {**os.environ, "KUBECONFIG": str(state.kubeconfig), "NETSCOPE_VIA": way_into_nodes(state)}
    return {what: _figures(f"pod/{client['metadata']['name']}", target, surroundings) for what, target in targets.items()}


def _figures(source: str, target: str, surroundings: dict[str, str]) -> dict[str, float]:
    took, used = zip(*(_once(source, target, surroundings) for _ in range(ROUNDS)), strict=True)
    return {"median (s)": round(statistics.median(took), 3), "worst (s)": round(max(took), 3),
            "processor time (s)": round(statistics.median(used), 3)}


def _once(source: str, target: str, surroundings: dict[str, str]) -> tuple[float, float]:
    before, begin = _processor(), time.monotonic()
    done = subprocess.run([sys.executable, "-m", "netscope", "trace", source, target], env=surroundings, capture_output=True,
                          text=True, check=True)
    assert "answered after" in done.stdout, done.stdout
    return time.monotonic() - begin, _processor() - before


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
