"""The way through etcd: puts a second, the delay of a watch, and one event's way to 1,000 watchers of the watch cache.

Targets: 60 MB for 5,000 pods in the cache; the rest is told for comparison between versions, beside etcd's own bound.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minik8s.apiserver.storage.watchcache import CacheWatch, WatchCache
    from nodecore.etcd.client import EtcdClient

ROOT = Path(__file__).resolve().parent.parent
IN_FLIGHT, PUT_SECONDS = 64, 4.0
LATENCY_EVENTS, FAN_OUT_EVENTS, WATCHERS, PODS = 500, 100, 1000, 5000
MEMORY_TARGET = 60.0
PREFIX = "/registry/pods/"


def run(json_path: str | None) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for part in PARTS:  # each in a process of its own, so that one's memory is not counted as another's
        done = subprocess.run([sys.executable, __file__, part], capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise RuntimeError(f"bench part {part} failed:\n{done.stderr}")
        result |= json.loads(done.stdout)
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name:<{width}}  {value:>10,.2f}")
    verdict = "within" if result["cache_mb"] <= MEMORY_TARGET else "OVER"
    print(f"cache of {PODS:,} pods: {verdict} the {MEMORY_TARGET:g} MB aimed at")
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=2) + "\n")
    return result


async def puts(etcd: EtcdClient) -> dict[str, float]:
    end, count = time.perf_counter() + PUT_SECONDS, 0

    async def put(number: int) -> None:
        nonlocal count
        while time.perf_counter() < end:
            await etcd.put(f"/bench/{number}", b"x" * 100)
            count += 1

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(put(number) for number in range(IN_FLIGHT)))
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    return {"puts_per_s": count / seconds, "client_cpu_us_per_put": used / count * 1e6}


async def watch_delay(etcd: EtcdClient) -> dict[str, float]:
    """From the put's own answer being asked for to the event in hand."""
    watch = etcd.watch("/bench/", await etcd.put("/bench/a", b""), previous=False)
    await anext(watch)
    delays = []
    for number in range(LATENCY_EVENTS):
        start = time.perf_counter()
        put = asyncio.create_task(etcd.put("/bench/a", str(number).encode()))
        await anext(watch)
        delays.append((time.perf_counter() - start) * 1000)
        await put
    watch.close()
    return percentiles("watch", delays)


@asynccontextmanager
async def pod_cache(etcd: EtcdClient) -> AsyncIterator[WatchCache]:
    """Filled, and fed."""
    from minik8s.apiserver.storage.feed import Feed

    feed = Feed(etcd)
    cache = feed.cache(PREFIX)
    running = asyncio.create_task(feed.run())
    try:
        await cache.ready()
        yield cache
    finally:
        running.cancel()


async def fan_out(etcd: EtcdClient) -> dict[str, float]:
    """One write to the moment the last of the watchers has the bytes of its event."""
    from _api_load import pod

    from minik8s.apiserver.storage.objects import Storage

    storage = Storage(etcd)
    await storage.create(PREFIX + "default/a", pod(0))
    arrived, everybody = 0, asyncio.Event()

    async def follow(watch: CacheWatch) -> None:
        nonlocal arrived
        async for event in watch:
            arrived += len(event.line) > 0
            if arrived == WATCHERS:
                everybody.set()

    async with pod_cache(etcd) as cache:
        watchers = [asyncio.create_task(follow(cache.watch(cache.revision))) for _ in range(WATCHERS)]
        await asyncio.sleep(0)
        delays, cpu = [], time.process_time()
        for number in range(FAN_OUT_EVENTS):
            arrived = 0
            everybody.clear()
            start = time.perf_counter()
            await storage.update(PREFIX + "default/a", lambda obj, number=number: {**obj, "n": number})
            await everybody.wait()
            delays.append((time.perf_counter() - start) * 1000)
        used = (time.process_time() - cpu) / FAN_OUT_EVENTS / WATCHERS * 1e6
        for task in watchers:
            task.cancel()
    return percentiles("fan_out_1000", delays) | {"fan_out_cpu_us_per_watcher": used}


async def memory(etcd: EtcdClient) -> dict[str, float]:
    """What a cache of many pods costs, filled with events too, and how fast it starts and answers."""
    from _api_load import put_pods

    from minik8s.apiserver.storage import feed  # noqa: F401 (its code is not counted)

    await put_pods(etcd, PODS)
    before, start = resident(), time.perf_counter()
    async with pod_cache(etcd) as cache:
        ready = (time.perf_counter() - start) * 1000
        await put_pods(etcd, 2000, changed="yes")
        await cache.fresh()
        start = time.perf_counter()
        for _ in range(20):
            await cache.fresh()
        fresh = (time.perf_counter() - start) * 50
        start = time.perf_counter()
        size = len(b",".join(entry.data for entry in cache.snapshot().entries))
        listing = (time.perf_counter() - start) * 1000
        return {
            "cache_mb": resident() - before, "objects_mb": size / 1e6, "cache_ready_ms": ready, "fresh_ms": fresh,
            "list_5000_ms": listing,
        }


def resident() -> float:
    """Megabytes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def percentiles(name: str, values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    return {f"{name}_p50_ms": cuts[49], f"{name}_p99_ms": cuts[98]}


PARTS: dict[str, Callable[[Any], Any]] = {"puts": puts, "watch_delay": watch_delay, "fan_out": fan_out, "memory": memory}


async def _part(name: str) -> dict[str, float]:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from etcdserver import EtcdServer

    from nodecore.etcd.client import EtcdClient, EtcdConfig

    with EtcdServer.start() as server:
        async with EtcdClient(EtcdConfig(server.endpoints)) as etcd:
            return dict(await PARTS[name](etcd))


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(asyncio.run(_part(sys.argv[1]))))
    else:
        run(None)
