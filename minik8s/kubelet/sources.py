"""Fetches the ConfigMaps, Secrets and tokens a pod names, and keeps them: a container restarts without the API, too.

Must not know: what they are used for. Read next: `minik8s/kubelet/environment.py`, `minik8s/kubelet/volumes.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nodecore.errors import Busy, Denied, NotFound, Unreachable
from nodecore.kube.client import KubeClient
from nodecore.kube.resource import CONFIG_MAPS, SECRETS

from .environment import Sources
from .records import Pod, containers_of, ephemeral_containers_of, init_containers_of, uid_of
from .sandbox_config import NodeSettings
from .tokens import Tokens

Reference = tuple[str, str]
CONFIG_MAP, SECRET = "configMap", "secret"


def references(pod: Pod) -> set[Reference]:
    """`(configMap|secret, name)` of everything the pod's environment and volumes are made from."""
    return {found for found in (*_of_environment(pod), *_of_volumes(pod)) if found[1]}


def _of_environment(pod: Pod) -> Iterator[Reference]:
    for spec in (*init_containers_of(pod), *containers_of(pod), *ephemeral_containers_of(pod)):
        for entry in spec.get("envFrom") or []:
            yield CONFIG_MAP, (entry.get("configMapRef") or {}).get("name", "")
            yield SECRET, (entry.get("secretRef") or {}).get("name", "")
        for entry in spec.get("env") or []:
            source = entry.get("valueFrom") or {}
            yield CONFIG_MAP, (source.get("configMapKeyRef") or {}).get("name", "")
            yield SECRET, (source.get("secretKeyRef") or {}).get("name", "")


def _of_volumes(pod: Pod) -> Iterator[Reference]:
    for volume in pod["spec"].get("volumes") or []:
        yield CONFIG_MAP, (volume.get("configMap") or {}).get("name", "")
        yield SECRET, (volume.get("secret") or {}).get("secretName", "")
        for source in (volume.get("projected") or {}).get("sources") or []:
            yield CONFIG_MAP, (source.get("configMap") or {}).get("name", "")
            yield SECRET, (source.get("secret") or {}).get("name", "")


class PodSources:
    """The sources of a node's pods: as the API has them, or while it does not answer, as they were read last."""

    def __init__(self, client: KubeClient) -> None:
        self._client, self._tokens = client, Tokens()
        self._last: dict[str, Sources] = {}

    async def of(self, pod: Pod, node: NodeSettings, pod_ips: tuple[str, ...]) -> Sources:
        """What exists of a pod's sources; what is missing is missing in the result. Unreachable before the first answer."""
        try:
            found = await self._read(pod, node, pod_ips)
        except (Unreachable, Busy):
            last = self._last.get(uid_of(pod))
            if last is None:
                raise
            return replace(last, pod_ips=pod_ips)
        self._last[uid_of(pod)] = found
        return found

    def forget(self, uid: str) -> None:
        """A pod has gone."""
        self._last.pop(uid, None)
        self._tokens.forget(uid)

    async def _read(self, pod: Pod, node: NodeSettings, pod_ips: tuple[str, ...]) -> Sources:
        namespace = pod["metadata"].get("namespace", "default")
        held: dict[str, dict[str, Mapping[str, bytes]]] = {CONFIG_MAP: {}, SECRET: {}}
        for kind, name in sorted(references(pod)):
            try:
                found = await self._client.get(CONFIG_MAPS if kind == CONFIG_MAP else SECRETS, name, namespace)
            except NotFound:
                continue
            except Denied as error:
                raise Denied(f"{kind} {name}: {error}") from None
            held[kind][name] = data_of(kind, found)
        tokens = await self._tokens.of(self._client, pod)
        return Sources(held[CONFIG_MAP], held[SECRET], pod_ips, node.ips, node.capacity or {}, tokens)


def data_of(kind: str, found: Mapping[str, Any]) -> dict[str, bytes]:
    """The keys and contents of a ConfigMap or Secret."""
    if kind == SECRET:
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
    plain = {key: value.encode() for key, value in (found.get("data") or {}).items()}
    return plain | {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
