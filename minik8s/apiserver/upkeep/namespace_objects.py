"""What every namespace has from its beginning: the ServiceAccount `default`, and the cluster's CA as a ConfigMap.

And, for who wants to join, `kube-public/cluster-info`: the server's address and its CA.

The original's controllers make them; here pods need them whether controllers run or not. One that is deleted comes back.
Must not know: HTTP. Read next: `default_objects.py`, `../admission/accounts.py`.
"""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.request.status import Refused
from minik8s.apiserver.upkeep.changes import after_every_change
from minik8s.apiserver.verbs.writing import Writer

Object = dict[str, Any]
log = logging.getLogger(__name__)
ACCOUNTS, MAPS = "serviceaccounts", "configmaps"
ACCOUNT, ROOT_CA = "default", "kube-root-ca.crt"
BEGIN = "-----BEGIN CERTIFICATE-----"
PUBLIC, INFO = "kube-public", "cluster-info"


class NamespaceObjects:
    """Makes them; `authority` reads the CA's certificate, as PEM, and without one there is no ConfigMap."""

    def __init__(self, cluster: Cluster, authority: Callable[[], str], server: str) -> None:
        self._cluster, self._writer = cluster, Writer(cluster)
        self._authority, self._server, self._certificate = authority, server, ""
        self._written: dict[str, int] = {}  # namespaces whose ConfigMap has had our CA, and the revision of that
        self._foreign = ""
        for plural in (ACCOUNTS, MAPS):
            cluster.cache(BY_PLURAL[plural])  # begun with the server

    async def run(self) -> None:
        """After every change of a namespace or of one of them, look whether all is there."""
        await after_every_change(self._cluster, ("namespaces", ACCOUNTS, MAPS), self.ensure, what="objects of namespaces")

    async def ensure(self) -> None:
        """Make what is missing in the namespaces there are, and renew what says an older CA than ours."""
        certificate = self._authority()
        if certificate != self._certificate:
            self._certificate = certificate
            self._written.clear()
        if certificate:
            await self._inform()
        for entry in self._cluster.cache(BY_PLURAL["namespaces"]).snapshot().entries:
            if not entry.object["metadata"].get("deletionTimestamp"):
                namespace = entry.key.rpartition("/")[2]
                if not self._there(ACCOUNTS, namespace, ACCOUNT):
                    made = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}}
                    await self._make(namespace, ACCOUNTS, made)
                if certificate:
                    await self._trust(namespace)

    async def _trust(self, namespace: str) -> None:
        data = {"ca.crt": self._certificate}
        there = self._there(MAPS, namespace, ROOT_CA)
        if there is None:
            made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOT_CA}, "data": data}
            there = await self._make(namespace, MAPS, made)
        elif there.get("data") != data:
            found = str((there.get("data") or {}).get("ca.crt"))
            if revision_of(there) < self._written.get(namespace, 0):
                return  # the cache has yet to learn of what we wrote
            if (namespace in self._written or found == self._foreign) and self._another(found):
                return
            there = await self._writer.alter(BY_PLURAL[MAPS], namespace, ROOT_CA, lambda old: {**old, "data": data})
        if there:  # else somebody has been quicker
            self._written[namespace] = revision_of(there)

    def _another(self, found: str) -> bool:
        """Whether another server has written its own CA over ours: two that did so in turns would never end."""
        if BEGIN not in found:
            return False
        if found != self._foreign:
            log.warning("%s: another API server of this cluster has another CA than ours, and was started later. Give all of "
                        "them one: the same ca.crt and ca.key in --cert-dir, or the same --client-ca-file", ROOT_CA)
        self._foreign = found
        return True

    async def _inform(self) -> None:
        """Say in public where we are and which CA we have; a certificate of ours that was renewed takes the older one's place."""
        there = self._there(MAPS, PUBLIC, INFO)
        if there is None:
            await self._make(PUBLIC, MAPS, _info(self._certificate, self._server))
        elif INFO not in self._written and (config := with_authority(there, self._certificate)):
            await self._writer.alter(BY_PLURAL[MAPS], PUBLIC, INFO, lambda old: {**old, "data": {"kubeconfig": config}})
        self._written[INFO] = 0

    def _there(self, plural: str, namespace: str, name: str) -> Object | None:
        kind = BY_PLURAL[plural]
        entry = self._cluster.cache(kind).get(kind.key(namespace, name))
        return entry.object if entry else None

    async def _make(self, namespace: str, plural: str, wanted: Object) -> Object | None:
        try:
            return await self._writer.add(BY_PLURAL[plural], namespace, wanted)
        except Refused as refused:
            if refused.code not in (403, 404) and refused.reason != "AlreadyExists":
                raise
            return None


def _info(certificate: str, server: str) -> Object:
    """The public ConfigMap: a kubeconfig that names nobody."""
    cluster = {"server": f"https://{server}", "certificate-authority-data": b64encode(certificate.encode()).decode()}
    config = {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": cluster}], "contexts": [], "users": []}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": INFO}, "data": {"kubeconfig": json.dumps(config)}}


def revision_of(obj: Object | None) -> int:
    """The revision an object was last written at; 0 for none."""
    return int(obj["metadata"].get("resourceVersion") or 0) if obj else 0


def with_authority(info: Object, certificate: str) -> str:
    """The public kubeconfig with this CA; empty where it has it, or is not of our making."""
    try:
        config = json.loads(info["data"]["kubeconfig"])
        (cluster,) = (each["cluster"] for each in config["clusters"])
    except (KeyError, TypeError, ValueError):
        return ""
    data = b64encode(certificate.encode()).decode()
    if cluster.get("certificate-authority-data") == data:
        return ""
    cluster["certificate-authority-data"] = data
    return json.dumps(config)
