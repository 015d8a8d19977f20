"""`lab status`: every node and agent with its pid on the host, memory, restarts and readiness.

Read next: `minik8s/lab/control.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minik8s.lab import control
from minik8s.lab.api import Api
from minik8s.lab.state import State, all_pids
from minik8s.lab.up import ready_nodes
from nodecore.errors import Fault

COLUMNS = ("NODE", "ADDRESS", "AGENT", "PID", "RSS", "CPU", "STARTS", "UP", "STATE")


def host_pids(holder: int) -> dict[int, int]:
    """The pids on the host of the processes of a node, by their pid inside."""
    try:
        namespace = os.readlink(f"/proc/{holder}/ns/pid")
    except OSError:
        return {}
    found = {}
    for pid in all_pids():
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                status = Path(f"/proc/{pid}/status").read_text()
                inner = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1]
                found[int(inner)] = pid
        except (OSError, StopIteration):
            continue
    return found


def agents(state: State, node: str) -> list[dict[str, Any]]:
    """The agents of one node, their pids as the host sees them; its init is the first."""
    place = state.node(node)
    pids = host_pids(place.pid)
    reply = control.ask(place.path, {"do": "status"})
    init = {"name": "init", "state": "ready", "pid": 1, "starts": 1, "rss": reply["rss"], "cpu": None, "seconds": None}
    return [{**entry, "pid": pids.get(entry["pid"], 0)} for entry in [init, *reply["services"]]]


def table(rows: Iterable[tuple[str, ...]], columns: tuple[str, ...]) -> str:
    """Rows below their headings, each column as wide as it must be."""
    lines = [columns, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def status(state: State) -> tuple[str, bool]:
    """The table, and whether everything is as it should be."""
    config = state.require()
    try:
        ready, problem = ready_nodes(Api(state.kubeconfig)), ""
    except Fault as error:
        ready, problem = set(), str(error)
    rows: list[tuple[str, ...]] = []
    good = not problem
    for node in config.every_node:
        alive = bool(state.node(node.name).pid)
        condition = "Ready" if node.name in ready else "NotReady" if alive else "off"
        good = good and condition == "Ready"
        rows.append((node.name, ",".join(node.addresses), "", "", "", "", "", "", condition))
        for entry in agents(state, node.name) if alive else []:
            good = good and entry["state"] in ("ready", "done")
            rows.append(_row(entry))
    text = table(rows, COLUMNS)
    return (f"{text}\n{problem}" if problem else text), good


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    running = bool(entry["pid"])
    return (
        "", "", entry["name"], str(entry["pid"]) if running else "-", f"{entry['rss'] / 2**20:.0f}M" if running else "-",
        f"{entry['cpu']:.1f}s" if running and entry["cpu"] is not None else "-", str(entry["starts"]),
        f"{entry['seconds']:.0f}s" if running and entry["seconds"] is not None else "-",
        entry["state"] + (f" ({entry['exit']})" if entry["state"] == "exited" else ""),
    )
