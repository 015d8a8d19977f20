"""The files a configMap, secret, downwardAPI or projected volume consists of: pure, given its sources.

What is missing raises `Invalid` in the words `kubectl describe` shows. Read next: `minik8s/kubelet/volumes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodecore.errors import Invalid

from .environment import Data, Sources, field_value, resource_value
from .records import Pod, containers_of
from .tokens import wish_of

DEFAULT_MODE = 0o644
Files = dict[str, tuple[bytes, int]]
"""By path inside the volume: content and mode."""


def volume_files(pod: Pod, volume: Mapping[str, Any], sources: Sources) -> Files:
    """Every file of a volume made from API objects."""
    if "configMap" in volume:
        source = volume["configMap"]
        return _keyed(source, "configmap", source["name"], sources.config_maps, _mode(source))
    if "secret" in volume:
        source = volume["secret"]
        return _keyed(source, "secret", source["secretName"], sources.secrets, _mode(source))
    if "downwardAPI" in volume:
        return _downward(pod, volume["downwardAPI"], sources, _mode(volume["downwardAPI"]))
    return _projected(pod, volume["projected"], sources)


def _mode(source: Mapping[str, Any]) -> int:
    given = source.get("defaultMode")
    return DEFAULT_MODE if given is None else int(given)


def _projected(pod: Pod, projected: Mapping[str, Any], sources: Sources) -> Files:
    mode = _mode(projected)
    made: Files = {}
    for source in projected.get("sources") or []:
        if "configMap" in source:
            made |= _keyed(source["configMap"], "configmap", source["configMap"]["name"], sources.config_maps, mode)
        if "secret" in source:
            made |= _keyed(source["secret"], "secret", source["secret"]["name"], sources.secrets, mode)
        if "downwardAPI" in source:
            made |= _downward(pod, source["downwardAPI"], sources, mode)
        if "serviceAccountToken" in source:
            made[_inside(source["serviceAccountToken"]["path"])] = (_token(source["serviceAccountToken"], sources), mode)
    return made


def _token(source: Mapping[str, Any], sources: Sources) -> bytes:
    try:
        return sources.tokens[wish_of(source)]
    except KeyError:
        raise Invalid("there is no token for the pod's ServiceAccount") from None


def _keyed(source: Mapping[str, Any], kind: str, name: str, held: Mapping[str, Data], mode: int) -> Files:
    data = held.get(name)
    if data is None:
        if source.get("optional"):
            return {}
        raise Invalid(f'{kind} "{name}" not found')
    items = source.get("items")
    if not items:
        return {key: (value, mode) for key, value in data.items()}
    made: Files = {}
    for item in items:
        if item["key"] in data:
            made[_inside(item["path"])] = (data[item["key"]], int(item.get("mode") or mode))
        elif not source.get("optional"):
            raise Invalid(f"{kind} references non-existent key: {item['key']}")
    return made


def _downward(pod: Pod, source: Mapping[str, Any], sources: Sources, mode: int) -> Files:
    made: Files = {}
    for item in source.get("items") or []:
        if "fieldRef" in item:
            text = field_value(pod, item["fieldRef"]["fieldPath"], sources)
        else:
            text = resource_value(pod, containers_of(pod)[0], item["resourceFieldRef"], sources)
        made[_inside(item["path"])] = (text.encode(), int(item.get("mode") or mode))
    return made


def _inside(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise Invalid(f"volume path {path} leads out of its volume")
    return path
