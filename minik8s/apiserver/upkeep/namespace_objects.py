"""What every namespace has from its beginning: the ServiceAccount `default`, and the cluster's CA as a ConfigMap.

And, for who wants to join, `kube-public/cluster-info`: the server's address and its CA.

The original's controllers make them; here pods need them whether controllers run or not. One that is deleted comes back.
Must not know: HTTP. Read next: `default_objects.py`, `../admission/accounts.py`.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL, Kind
from minik8s.apiserver.request.status import Refused
from minik8s.apiserver.upkeep.changes import after_every_change
from minik8s.apiserver.verbs.writing import Writer

Object = dict[str, Any]
ACCOUNT, ROOT_CA = "default", "kube-root-ca.crt"
PUBLIC, INFO = "kube-public", "cluster-info"


class NamespaceObjects:
    """Makes them; `certificate` is the CA's, as PEM, and without one there is no ConfigMap."""

    def __init__(self, cluster: Cluster, certificate: str, server: str) -> None:
        self._cluster, self._writer = cluster, Writer(cluster)
        self._wanted: dict[str, Object] = {
            "serviceaccounts": {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}}}
        if certificate:
            self._wanted["configmaps"] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOT_CA},
                                          "data": {"ca.crt": certificate}}
        for plural in self._wanted:
            cluster.cache(BY_PLURAL[plural])  # begun with the server
        self._info = _info(certificate, server) if certificate else None

    async def run(self) -> None:
        """After every change of a namespace or of one of them, look whether all is there."""
        await after_every_change(self._cluster, ("namespaces", *self._wanted), self.ensure, what="objects of namespaces")

    async def ensure(self) -> None:
        """Make what is missing in the namespaces there are."""
        kind = BY_PLURAL["configmaps"]
        if self._info and self._cluster.cache(kind).get(kind.key(PUBLIC, INFO)) is None:
            await self._make(PUBLIC, kind, self._info)
        for entry in self._cluster.cache(BY_PLURAL["namespaces"]).snapshot().entries:
            namespace = entry.key.rpartition("/")[2]
            for plural, wanted in self._wanted.items():
                kind = BY_PLURAL[plural]
                there = self._cluster.cache(kind).get(kind.key(namespace, wanted["metadata"]["name"]))
                if there is None and not entry.object["metadata"].get("deletionTimestamp"):
                    await self._make(namespace, kind, wanted)
                elif there is not None and plural == "configmaps" and there.object.get("data") != wanted["data"]:
                    await self._writer.alter(kind, namespace, ROOT_CA, lambda old, data=wanted["data"]: {**old, "data": data})  # type: ignore[misc]

    async def _make(self, namespace: str, kind: Kind, wanted: Object) -> None:
        try:
            await self._writer.add(kind, namespace, {**wanted, "metadata": dict(wanted["metadata"])})
        except Refused as refused:
            if refused.code not in (403, 404) and refused.reason != "AlreadyExists":
                raise


def _info(certificate: str, server: str) -> Object:
    """The public ConfigMap: a kubeconfig that names nobody."""
    cluster = {"server": f"https://{server}", "certificate-authority-data": b64encode(certificate.encode()).decode()}
    config = {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": cluster}], "contexts": [], "users": []}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": INFO}, "data": {"kubeconfig": json.dumps(config)}}
