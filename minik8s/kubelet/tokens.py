"""The ServiceAccount tokens pods have in projected volumes: asked of the API, and anew when a fifth of their life is left.

Must not know: where they are written. Read next: `minik8s/kubelet/sources.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from nodecore.kube.client import KubeClient
from nodecore.kube.resource import SERVICE_ACCOUNTS

from .records import Pod, uid_of

Wish = tuple[str, int]  # audience (empty: the API's own) and seconds
SECONDS, LEFT, LONGEST = 3600, 0.2, 24 * 3600.0


def wishes(pod: Pod) -> Iterator[tuple[Wish, str]]:
    """What tokens a pod's volumes ask for, and under which path."""
    for volume in pod["spec"].get("volumes") or []:
        for source in (volume.get("projected") or {}).get("sources") or []:
            if "serviceAccountToken" in source:
                yield wish_of(source["serviceAccountToken"]), source["serviceAccountToken"]["path"]


def wish_of(source: Mapping[str, Any]) -> Wish:
    """The token a projected source asks for."""
    return str(source.get("audience") or ""), int(source.get("expirationSeconds") or SECONDS)


class Tokens:
    """The tokens of all pods of a node."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Wish], tuple[float, bytes]] = {}

    async def of(self, client: KubeClient, pod: Pod) -> dict[Wish, bytes]:
        """The tokens a pod asks for, good for a while."""
        now = time.monotonic()
        found: dict[Wish, bytes] = {}
        for wish, _ in wishes(pod):
            renew, token = self._kept.get((uid_of(pod), wish), (0.0, b""))
            if renew <= now:
                token = await _ask(client, pod, wish)
                self._kept[uid_of(pod), wish] = (now + min(wish[1] * (1 - LEFT), LONGEST), token)
            found[wish] = token
        return found

    def forget(self, uid: str) -> None:
        """A pod has gone."""
        self._kept = {key: kept for key, kept in self._kept.items() if key[0] != uid}


async def _ask(client: KubeClient, pod: Pod, wish: Wish) -> bytes:
    audience, seconds = wish
    meta, account = pod["metadata"], pod["spec"].get("serviceAccountName") or "default"
    spec: dict[str, Any] = {"expirationSeconds": seconds, "boundObjectRef": {
        "apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}}
    if audience:
        spec["audiences"] = [audience]
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    made = await client.create(SERVICE_ACCOUNTS, body, meta.get("namespace", "default"), subresource="token", name=account)
    return str(made["status"]["token"]).encode()
