"""Defaults of a pod's spec, alone or inside a template: containers, ports, probes, volumes.

Pure and total. Must not know: which kind the spec is part of. Read next: `defaults.py`.
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
FILE_MODE = 0o644


def section(obj: Object, key: str, *, make: bool = False) -> Object:
    """An object's inner object; an empty one, put there if `make`, where there is none."""
    found = obj.get(key)
    if isinstance(found, dict):
        return found
    fresh: Object = {}
    if make and found is None:
        obj[key] = fresh
    return fresh


def each(obj: Object, key: str) -> list[Object]:
    """The objects of an inner list."""
    found = obj.get(key)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def pod_spec(spec: Object) -> None:
    """Fill in a pod's spec."""
    if not spec:
        return
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    if spec.get("securityContext") is None:
        spec["securityContext"] = {}
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for container in each(spec, key):
            _container(container, host_network=bool(spec.get("hostNetwork")))
    for volume in each(spec, "volumes"):
        _volume(volume)


def _container(container: Object, *, host_network: bool) -> None:
    image = container.get("image")
    if isinstance(image, str):
        container.setdefault("imagePullPolicy", "Always" if _latest(image) else "IfNotPresent")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    if container.get("resources") is None:
        container["resources"] = {}
    limits = section(section(container, "resources"), "limits")
    if limits:
        requests = section(container["resources"], "requests", make=True)
        for name, amount in limits.items():
            requests.setdefault(name, amount)
    for port in each(container, "ports"):
        port.setdefault("protocol", "TCP")
        if host_network and not port.get("hostPort"):
            port["hostPort"] = port.get("containerPort")
    for name in PROBES:
        if isinstance(container.get(name), dict):
            _probe(container[name])
    for variable in each(container, "env"):
        reference = section(section(variable, "valueFrom"), "fieldRef")
        if reference:
            reference.setdefault("apiVersion", "v1")
    lifecycle = section(container, "lifecycle")
    for hook in lifecycle.values():
        if isinstance(hook, dict):
            _http(section(hook, "httpGet"))


def _latest(image: str) -> bool:
    name = image.rpartition("/")[2]
    return "@" not in name and (":" not in name or name.endswith(":latest"))


def _probe(probe: Object) -> None:
    for key, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        if not probe.get(key):
            probe[key] = value
    _http(section(probe, "httpGet"))
    grpc = section(probe, "grpc")
    if grpc:
        grpc.setdefault("service", "")


def _http(action: Object) -> None:
    if action:
        action.setdefault("path", "/")
        action.setdefault("scheme", "HTTP")


def _volume(volume: Object) -> None:
    for source in ("configMap", "secret", "downwardAPI", "projected"):
        if isinstance(volume.get(source), dict):
            volume[source].setdefault("defaultMode", FILE_MODE)
    for item in each(section(volume, "downwardAPI"), "items"):
        reference = section(item, "fieldRef")
        if reference:
            reference.setdefault("apiVersion", "v1")
    if isinstance(volume.get("hostPath"), dict):
        volume["hostPath"].setdefault("type", "")
    if set(volume) == {"name"}:
        volume["emptyDir"] = {}
