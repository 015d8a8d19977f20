"""From `up` to "the Service answered from every node": each step with its time. Target: 20 s for three nodes on two cores."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from minik8s.lab import demo, down, topology
from minik8s.lab.enter import command_in
from minik8s.lab.state import State
from minik8s.lab.up import up

TARGET = 20.0
NODES = 3


def run(json_path: str | None) -> dict[str, Any]:
    state = State(f"bench-{os.getpid()}")
    try:
        steps = up(state, {"nodes": NODES})
        kubectl = demo.Kubectl(state)
        with steps.step("apply the web Deployment and its Service"):
            kubectl.run("apply", "-f", str(demo.MANIFEST))
        address = kubectl.get("service", "web", "-n", demo.NAMESPACE)["spec"]["clusterIP"]
        with steps.step("the Service answers on every node"):
            for node in topology.nodes(NODES):
                client = demo.Client(node.name, command_in(state, node.name, ["busybox", "sh", "-c"]), node.addresses)
                until_answered(client, f"http://{address}/")
        total = steps.total
        steps.done(f"the Service answered from every node; target {TARGET:.0f} s")
    finally:
        down.down(state)
    result = {"seconds": round(total, 2), "target": TARGET, "steps": {name: round(seconds, 3) for name, seconds in steps.times}}
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1))
    return result


def until_answered(client: demo.Client, url: str) -> None:
    for _ in range(600):
        if demo.fetch(client, url, 1)[-1].startswith("pod="):
            return
        time.sleep(0.05)
    raise TimeoutError(f"{client.name}: {url} does not answer")
