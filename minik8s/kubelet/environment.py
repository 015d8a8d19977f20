"""A container's environment variables and its `$(NAME)` references: pure, given the ConfigMaps and Secrets it names.

What is missing raises `Invalid` in the words `kubectl describe` shows. Read next: `minik8s/kubelet/sources.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodecore.errors import Invalid
from nodecore.kube.quantity import parse_quantity

from .records import Pod, containers_of
from .resources import amounts

REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
PATH = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]\Z")
Data = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Sources:
    """The ConfigMaps and Secrets a pod names, as far as they exist, and the node's facts for the downward API."""

    config_maps: Mapping[str, Data] = field(default_factory=dict)
    secrets: Mapping[str, Data] = field(default_factory=dict)
    pod_ips: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()
    node_capacity: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[tuple[str, int], bytes] = field(default_factory=dict)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by a known variable; an unknown one stays, `$$` is a dollar."""

    def replace(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "$"
        return variables.get(name, found[0])

    return REFERENCE.sub(replace, text)


def environment(pod: Pod, spec: Mapping[str, Any], sources: Sources) -> dict[str, str]:
    """The variables of a container, in order: envFrom first, then env, each seeing those before it."""
    made: dict[str, str] = {}
    for entry in spec.get("envFrom") or []:
        made |= _bulk(entry, sources)
    for entry in spec.get("env") or []:
        if entry.get("valueFrom"):
            value = _from(pod, spec, entry["valueFrom"], sources)
            if value is not None:
                made[entry["name"]] = value
        else:
            made[entry["name"]] = expand(entry.get("value") or "", made)
    return made


def _bulk(entry: Mapping[str, Any], sources: Sources) -> dict[str, str]:
    prefix = entry.get("prefix") or ""
    for key, kind, held in (("configMapRef", "configmap", sources.config_maps), ("secretRef", "secret", sources.secrets)):
        if key in entry:
            reference = entry[key]
            data = held.get(reference["name"])
            if data is None:
                if reference.get("optional"):
                    return {}
                raise Invalid(f'{kind} "{reference["name"]}" not found')
            return {prefix + name: _text(value) for name, value in data.items()}
    return {}


def _from(pod: Pod, spec: Mapping[str, Any], source: Mapping[str, Any], sources: Sources) -> str | None:
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"], sources)
    if "resourceFieldRef" in source:
        return resource_value(pod, spec, source["resourceFieldRef"], sources)
    for key, kind, held in (("configMapKeyRef", "configmap", sources.config_maps), ("secretKeyRef", "secret", sources.secrets)):
        if key in source:
            return _key(source[key], kind, held)
    raise Invalid(f"env source {', '.join(source)} is not supported")


def _key(reference: Mapping[str, Any], kind: str, held: Mapping[str, Data]) -> str | None:
    data = held.get(reference["name"])
    if data is not None and reference["key"] in data:
        return _text(data[reference["key"]])
    if reference.get("optional"):
        return None
    if data is None:
        raise Invalid(f'{kind} "{reference["name"]}" not found')
    raise Invalid(f"couldn't find key {reference['key']} in {kind} {reference['name']}")


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def field_value(pod: Pod, path: str, sources: Sources) -> str:
    """The downward API's `fieldRef`."""
    meta, spec = pod["metadata"], pod["spec"]
    plain: dict[str, Callable[[], str]] = {
        "metadata.name": lambda: meta["name"],
        "metadata.namespace": lambda: meta.get("namespace", ""),
        "metadata.uid": lambda: meta["uid"],
        "spec.nodeName": lambda: spec.get("nodeName", ""),
        "spec.serviceAccountName": lambda: spec.get("serviceAccountName") or "default",
        "status.hostIP": lambda: sources.host_ips[0] if sources.host_ips else "",
        "status.hostIPs": lambda: ",".join(sources.host_ips),
        "status.podIP": lambda: sources.pod_ips[0] if sources.pod_ips else "",
        "status.podIPs": lambda: ",".join(sources.pod_ips),
        "metadata.labels": lambda: _lines(meta.get("labels")),
        "metadata.annotations": lambda: _lines(meta.get("annotations")),
    }
    if path in plain:
        return plain[path]()
    found = PATH.match(path)
    if found:
        return str((meta.get(found[1]) or {}).get(found[2], ""))
    raise Invalid(f"fieldRef {path} is not supported")


def _lines(pairs: Mapping[str, str] | None) -> str:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

    return "\n".join(f"{key}={quoted(value)}" for key, value in sorted((pairs or {}).items()))


def resource_value(pod: Pod, spec: Mapping[str, Any], reference: Mapping[str, Any], sources: Sources) -> str:
    """The downward API's `resourceFieldRef`: whole units of `divisor`, rounded up; a limit not set is the node's capacity."""
    name = reference.get("containerName")
    if name:
        spec = next((item for item in containers_of(pod) if item["name"] == name), spec)
    kind, _, resource = reference["resource"].partition(".")
    given = amounts(spec, kind).get(resource)
    if given is None:
        given = str(sources.node_capacity.get(resource, 0)) if kind == "limits" else "0"
    divisor = parse_quantity(reference.get("divisor") or "1") or parse_quantity("1")
    units = parse_quantity(given) / divisor
    return str(-((-units.numerator) // units.denominator))
