"""The ServiceAccount of a pod: there must be one, its token is mounted unless it says no, its pull secrets are the pod's.

Read next: `chain.py`; `auth/accounts.py` for the tokens.
"""

from __future__ import annotations

import asyncio
import random

from minik8s.apiserver.admission.asked import CREATE, Asked, Object, found
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL
from minik8s.apiserver.request.call import SUFFIX

MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
ROOT_CA = "kube-root-ca.crt"
TOKEN_SECONDS = 3607
MIRROR = "kubernetes.io/config.mirror"
PATIENCE = 8.0


class ServiceAccounts:
    """The plugin."""

    name = "ServiceAccount"
    needs: tuple[str, ...] = ("serviceaccounts",)

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def concerns(self, asked: Asked) -> bool:
        """Pods that are created, but for mirrors of files."""
        return asked.operation == CREATE and asked.plural == "pods" and not (
            (asked.obj.get("metadata") or {}).get("annotations") or {}).get(MIRROR)

    async def wait_for(self, asked: Asked) -> None:
        """Give the account of a new namespace a moment to appear."""
        name = _name(asked.obj)
        cache = self._cluster.cache(BY_PLURAL["serviceaccounts"])
        try:
            async with asyncio.timeout(PATIENCE):
                while found(self._cluster, "serviceaccounts", asked.namespace, name) is None:
                    await cache.changed()
        except TimeoutError:
            return

    def shape(self, asked: Asked) -> None:
        """Name the account, mount its token, take over its pull secrets."""
        spec, name = asked.obj["spec"], _name(asked.obj)
        account = found(self._cluster, "serviceaccounts", asked.namespace, name)
        if account is None:
            raise asked.refuse(f'error looking up service account {asked.namespace}/{name}: serviceaccount "{name}" not found')
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        wanted = spec.get("automountServiceAccountToken")
        if wanted if wanted is not None else account.get("automountServiceAccountToken", True) is not False:
            _mount(spec)
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = [dict(each) for each in account["imagePullSecrets"]]

    def check(self, asked: Asked) -> None:
        """Nothing."""


def _name(pod: Object) -> str:
    spec = pod["spec"]
    return str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "default")


def _mount(spec: Object) -> None:
    volumes = spec.get("volumes") or []
    volume = next((each["name"] for each in volumes if _is_token(each)), "")
    name = volume or f"kube-api-access-{''.join(random.choices(SUFFIX, k=5))}"
    used = False
    for part in ("initContainers", "containers"):
        for container in spec.get(part) or ():
            mounts = container.get("volumeMounts") or []
            if not any(mount.get("mountPath") == MOUNT for mount in mounts):
                container["volumeMounts"] = [*mounts, {"name": name, "readOnly": True, "mountPath": MOUNT}]
                used = True
    if used and not volume:
        spec["volumes"] = [*volumes, _volume(name)]


def _is_token(volume: Object) -> bool:
    return str(volume.get("name", "")).startswith("kube-api-access-") and "projected" in volume


def _volume(name: str) -> Object:
    field = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}, "path": "namespace"}
    return {"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [field]}}]}}
