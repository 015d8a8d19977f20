"""The API server: one process over TLS with etcd beside it on the same cores; each figure beside its target.

    start     seconds to readiness, empty and with 5,000 pods; memory with those
    requests  GET and create a second (wrk, 64 connections), a list of 5,000 pods
    watches   one change to 1,000 watchers; 10,000 idle watches
    churn     memory after 100,000 objects came and went

`bench/apiserver.py PART...` measures only those; each part fits into four minutes. Read next: `apiserver_original.py`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _api_load import PODS, ROOT, TOKEN, Site, clear, fill, new_pod, pod, site, wrk

MANY, WATCHERS, CHANGES, IDLE, CHURN = 5000, 1000, 20, 10000, 100_000
TARGETS: dict[str, tuple[str, float]] = {
    "ready_s": ("<=", 2.0), "get_per_s": (">=", 5000), "list_5000_s": ("<=", 0.15), "create_per_s": (">=", 900),
    "mb_with_5000": ("<=", 200), "watchers_1000_p99_ms": ("<=", 100), "idle_10000_mb": ("<=", 400), "churn_growth": ("<=", 1.1),
}


def start(at: Site) -> dict[str, float]:
    empty = []
    for _ in range(3):
        empty.append(at.start())
        at.stop()
    at.start()
    time.sleep(8)  # it trims itself after five seconds
    at_rest = at.resident
    at.stop()
    fill(at.etcd, MANY)
    full = at.start()
    time.sleep(8)
    return {"ready_s": statistics.median(empty), "mb_at_rest": at_rest, "ready_with_5000_s": full, "mb_with_5000": at.resident}


def requests(at: Site) -> dict[str, float]:
    fill(at.etcd, MANY)
    at.start()
    wrk(at, f"{PODS}/{pod(7)['metadata']['name']}", seconds=1)
    got = wrk(at, f"{PODS}/{pod(7)['metadata']['name']}")
    connection = at.connection()
    lists = []
    for _ in range(9):
        began = time.perf_counter()
        size = len(at.call(connection, "GET", PODS))
        lists.append(time.perf_counter() - began)
    connection.close()
    created = wrk(at, PODS, create="made-", seconds=6)
    found = {f"create_{name}": value for name, value in created.items()} | {f"get_{name}": value for name, value in got.items()}
    return found | {"list_5000_s": statistics.median(lists), "list_mb": size / 1e6, "mb_after_requests": at.resident}


def watches(at: Site) -> dict[str, float]:
    at.start()
    before = at.resident
    connection = at.connection()
    at.call(connection, "POST", PODS, new_pod())
    name = f"{PODS}/{new_pod()['metadata']['name']}"
    path = watch_from_now(at, connection)
    with watchers(at, WATCHERS, path) as process:
        assert process.stdin
        assert process.stdout
        delays: list[float] = []
        used = at.cpu()[0]
        for _ in range(CHANGES):
            print(1, file=process.stdin, flush=True)
            change = {"metadata": {"labels": {"stamp": str(time.monotonic_ns())}}}
            at.call(connection, "PATCH", name, change, "application/merge-patch+json")
            delays += json.loads(process.stdout.readline())
        used = at.cpu()[0] - used
    cuts = statistics.quantiles(delays, n=100)
    complete = len(delays) / WATCHERS / CHANGES
    return {"watchers_1000_p50_ms": cuts[49], "watchers_1000_p99_ms": cuts[98], "watchers_complete": complete,
            "watch_server_cpu_us": used / len(delays) * 1e6, **idle(at, watch_from_now(at, connection), before)}


def watch_from_now(at: Site, connection: Any) -> str:
    return f"{PODS}?watch=1&resourceVersion={json.loads(at.call(connection, 'GET', PODS))['metadata']['resourceVersion']}"


def idle(at: Site, path: str, before: float) -> dict[str, float]:
    began = time.monotonic()
    with watchers(at, IDLE, path):
        opened, at_once = time.monotonic() - began, at.resident
        time.sleep(25)  # it trims itself within ten seconds after work
        per_watch = (at.resident - before) * 1000 / IDLE
        return {"idle_10000_mb": at.resident, "idle_at_once_mb": at_once, "kb_per_watch": per_watch, "opened_s": opened}


def churn(at: Site) -> dict[str, float]:
    """Made and deleted in etcd, 4,000 at a time, from where they reach the caches as those of the API do."""
    at.start()
    connection = at.connection()
    wrk(at, PODS, create="warm-", seconds=2)
    fill(at.etcd, 4000)
    clear(at.etcd)
    at.call(connection, "GET", PODS)
    time.sleep(25)  # it trims itself within ten seconds after work
    before = at.resident
    for _ in range(CHURN // 4000):
        fill(at.etcd, 4000)
        clear(at.etcd)
    at.call(connection, "GET", PODS)
    time.sleep(25)
    return {"churn_before_mb": before, "churn_after_mb": at.resident, "churn_growth": at.resident / before}


class watchers:
    """The client process with so many watches open."""

    def __init__(self, at: Site, count: int, path: str) -> None:
        argv = [sys.executable, str(ROOT / "bench/_api_watchers.py"), "127.0.0.1", str(at.api.port), str(at.api.file("ca.crt")),
                TOKEN, str(count), path]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> subprocess.Popen[str]:
        assert self._process.stdout
        if self._process.stdout.readline() != "open\n":
            raise RuntimeError("the watchers could not connect")
        return self._process

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()


PARTS: dict[str, Callable[[Site], dict[str, float]]] = {"start": start, "requests": requests, "watches": watches, "churn": churn}


def run(json_path: str | None, parts: list[str] | None = None) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for part in parts or list(PARTS):
        with site() as at:
            result |= PARTS[part](at)
    for name, value in result.items():
        sign, target = TARGETS.get(name, ("", 0.0))
        met = (value <= target) if sign == "<=" else (value >= target)
        verdict = f"   {'holds' if met else 'MISSES'} {sign} {target:,g}" if sign else ""
        print(f"{name:<24}{value:>12,.2f}{verdict}")
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=2) + "\n")
    return result


if __name__ == "__main__":
    run(None, sys.argv[1:])
