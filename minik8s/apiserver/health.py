"""Health by named checks, the version, and counters of requests: what probes and monitors read.

    /livez   the process answers          /readyz  etcd answers, caches are synced, default objects are there
Must not know: HTTP's machinery. Read next: `handler.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.request.call import Answer
from nodecore.errors import Fault

TEXT = "text/plain; charset=utf-8"
VERSION = {
    "major": "1", "minor": "33", "gitVersion": "v1.33.0+minik8s", "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
    "goVersion": "", "compiler": "cpython", "platform": "linux/amd64",
}
PATHS = ("/healthz", "/livez", "/readyz")
ETCD_SECONDS = 2.0


class Health:
    """The checks, and the counters of what was answered."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.prepared = False
        self.stopping = False
        self.in_flight = 0
        self.watches = 0
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: Counter[str] = Counter()

    async def probe(self, path: str, query: Mapping[str, str]) -> Answer | None:
        """Answer a health path, or one check of it (`/readyz/etcd`); None for a check there is not."""
        root, _, single = path[1:].partition("/")
        checks = await self._checks(root)
        if single:
            return None if single not in checks else _verdict({single: checks[single]}, root, verbose=False)
        excluded = query.get("exclude", "").split(",")
        chosen = {name: ok for name, ok in checks.items() if name not in excluded}
        return _verdict(chosen, root, verbose="verbose" in query)

    async def _checks(self, root: str) -> dict[str, bool]:
        checks = {"ping": True}
        if root == "livez":
            return checks
        checks["etcd"] = await self._etcd()
        if root == "readyz":
            checks["informer-sync"] = self._cluster.synced
            checks["poststarthook/default-objects"] = self.prepared
            checks["shutdown"] = not self.stopping
        return checks

    async def _etcd(self) -> bool:
        try:
            async with asyncio.timeout(ETCD_SECONDS):
                await self._cluster.etcd.revision()
        except (Fault, TimeoutError):
            return False
        return True

    def count(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """Take note of one request."""
        self._requests[verb, resource, code] += 1
        self._seconds[verb] += seconds  # type: ignore[assignment]

    def metrics(self) -> Answer:
        """The counters in Prometheus' text format."""
        lines = ["# TYPE apiserver_request_total counter"]
        lines += [f'apiserver_request_total{{verb="{verb}",resource="{resource}",code="{code}"}} {count}'
                  for (verb, resource, code), count in sorted(self._requests.items())]
        lines.append("# TYPE apiserver_request_duration_seconds_sum counter")
        lines += [f'apiserver_request_duration_seconds_sum{{verb="{verb}"}} {seconds:.6f}'
                  for verb, seconds in sorted(self._seconds.items())]
        lines += ["# TYPE apiserver_current_inflight_requests gauge", f"apiserver_current_inflight_requests {self.in_flight}",
                  "# TYPE apiserver_longrunning_requests gauge", f"apiserver_longrunning_requests {self.watches}",
                  "# TYPE process_resident_memory_bytes gauge", f"process_resident_memory_bytes {resident_bytes()}"]
        return Answer(200, ("\n".join(lines) + "\n").encode(), "text/plain; version=0.0.4; charset=utf-8")


def resident_bytes() -> int:
    """The memory this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _verdict(checks: Mapping[str, bool], root: str, *, verbose: bool) -> Answer:
    good = all(checks.values())
    if good and not verbose:
        return Answer(200, b"ok", TEXT)
    lines = [f"[+]{name} ok" if ok else f"[-]{name} failed: reason withheld" for name, ok in checks.items()]
    lines.append(f"{root} check {'passed' if good else 'failed'}")
    return Answer(200 if good else 500, ("\n".join(lines) + "\n").encode(), TEXT)
