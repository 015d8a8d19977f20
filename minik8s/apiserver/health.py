"""Health by named checks, and the version: what probes read.

    /livez   the process answers          /readyz  etcd answers, caches are synced, default objects are there
Must not know: HTTP's machinery. Read next: `metrics.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.metrics import Metrics
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
    """The checks, and who counts what was answered."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.prepared = False
        self.stopping = False
        self.metrics = Metrics()

    async def probe(self, path: str, query: Mapping[str, str], excluded: Collection[str] = ()) -> Answer | None:
        """Answer a health path, or one check of it (`/readyz/etcd`); None for a check there is not."""
        root, _, single = path[1:].partition("/")
        checks = await self._checks(root)
        if single:
            return None if single not in checks else _verdict({single: checks[single]}, root, (), verbose="verbose" in query)
        return _verdict(checks, root, excluded, verbose="verbose" in query)

    async def _checks(self, root: str) -> dict[str, bool]:
        checks = {"ping": True, "log": True}
        if root == "livez":
            return checks
        checks["etcd"] = await self._etcd()
        if root == "readyz":
            checks["etcd-readiness"] = checks["etcd"]
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

    def text(self) -> Answer:
        """The counters in Prometheus' text format."""
        objects = {".".join(filter(None, (plural, group))): len(cache)
                   for (group, _, plural), cache in self._cluster.caches.items() if cache.synced}
        body = self.metrics.text(objects, self._cluster.feed.events)
        return Answer(200, body.encode(), "text/plain; version=0.0.4; charset=utf-8")


def _verdict(checks: Mapping[str, bool], root: str, excluded: Collection[str], *, verbose: bool) -> Answer:
    good = all(ok for name, ok in checks.items() if name not in excluded)
    if good and not verbose:
        return Answer(200, b"ok", TEXT)
    lines = [f"[+]{name} excluded: ok" if name in excluded else f"[+]{name} ok" if ok else f"[-]{name} failed: reason withheld"
             for name, ok in checks.items()]
    if unknown := [name for name in excluded if name not in checks]:
        lines.append(f"warn: some health checks cannot be excluded: no matches for {', '.join(repr(name) for name in unknown)}")
    lines.append(f"{root} check {'passed' if good else 'failed'}")
    return Answer(200 if good else 500, ("\n".join(lines) + "\n").encode(), TEXT)
