"""What every namespace has from its beginning: the ServiceAccount `default`, and the cluster's CA as a ConfigMap.

The original's controllers make them; here pods need them whether controllers run or not. One that is deleted comes back.
Must not know: HTTP. Read next: `default_objects.py`, `admission/accounts.py`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.request.status import Refused
from minik8s.apiserver.verbs.writing import Writer
from nodecore.errors import Fault

log = logging.getLogger(__name__)
Object = dict[str, Any]
ACCOUNT, ROOT_CA = "default", "kube-root-ca.crt"


class NamespaceObjects:
    """Makes them; `certificate` is the CA's, as PEM, and without one there is no ConfigMap."""

    def __init__(self, cluster: Cluster, certificate: str) -> None:
        self._cluster, self._writer = cluster, Writer(cluster)
        self._wanted: dict[str, Object] = {
            "serviceaccounts": {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}}}
        if certificate:
            self._wanted["configmaps"] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOT_CA},
                                          "data": {"ca.crt": certificate}}

    async def run(self) -> None:
        """After every change of a namespace or of one of them, look whether all is there."""
        caches = [self._cluster.cache(BY_PLURAL[plural]) for plural in ("namespaces", *self._wanted)]
        for cache in caches:
            await cache.ready()
        seen: list[int] = []
        while True:
            now = [cache.window.end for cache in caches]
            if now != seen:
                seen = now
                try:
                    await self.ensure()
                except Fault as fault:
                    log.warning("objects of namespaces: %s", fault)
                    seen = []
                    await asyncio.sleep(1)
                continue
            waiting = [asyncio.ensure_future(cache.changed()) for cache in caches]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waiting:
                    each.cancel()

    async def ensure(self) -> None:
        """Make what is missing in the namespaces there are."""
        for entry in self._cluster.cache(BY_PLURAL["namespaces"]).snapshot().entries:
            namespace = entry.key.rpartition("/")[2]
            for plural, wanted in self._wanted.items():
                kind = BY_PLURAL[plural]
                there = self._cluster.cache(kind).get(kind.key(namespace, wanted["metadata"]["name"]))
                if there is None and not entry.object["metadata"].get("deletionTimestamp"):
                    await self._make(plural, namespace)
                elif there is not None and plural == "configmaps" and there.object.get("data") != wanted["data"]:
                    await self._writer.alter(kind, namespace, ROOT_CA, lambda old, data=wanted["data"]: {**old, "data": data})  # type: ignore[misc]

    async def _make(self, plural: str, namespace: str) -> None:
        wanted = self._wanted[plural]
        try:
            await self._writer.add(BY_PLURAL[plural], namespace, {**wanted, "metadata": dict(wanted["metadata"])})
        except Refused as refused:
            if refused.code not in (403, 404) and refused.reason != "AlreadyExists":
                raise
