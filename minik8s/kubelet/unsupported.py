"""What a pod may ask for that this kubelet does not do: named, never silently ignored.

Pure. Read next: `minik8s/kubelet/worker.py`, which tells it as an event and as the containers' waiting reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .records import Pod, containers_of, init_containers_of

VOLUMES = ("emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected")
PROJECTED = ("configMap", "secret", "downwardAPI", "serviceAccountToken")
POD_FIELDS = ("runtimeClassName", "resourceClaims")
HANDLERS = ("exec", "httpGet", "tcpSocket")
HOOKS = ("exec", "httpGet", "sleep")


def unsupported(pod: Pod) -> str:
    """The first thing in the pod that is not supported, as one line; empty when it can run."""
    return next((f"{what} is not supported by this kubelet" for what in _wishes(pod)), "")


def unsupported_container(spec: Mapping[str, Any]) -> str:
    """The same for one container: an ephemeral one may come when its pod has long been running."""
    return next((f"{what} is not supported by this kubelet" for what in _container(spec)), "")


def _wishes(pod: Pod) -> Iterator[str]:
    spec = pod["spec"]
    for name in POD_FIELDS:
        if spec.get(name):
            yield f"spec.{name}"
    if spec.get("hostUsers") is False:
        yield "spec.hostUsers=false"
    if (spec.get("os") or {}).get("name", "linux") != "linux":
        yield f"spec.os.name={spec['os']['name']}"
    for volume in spec.get("volumes") or []:
        yield from _volume(volume)
    if (spec.get("securityContext") or {}).get("seLinuxOptions"):
        yield "spec.securityContext.seLinuxOptions"
    for init in init_containers_of(pod):
        if init.get("restartPolicy"):
            yield f"restartPolicy of init container {init['name']}"
    for one in (*init_containers_of(pod), *containers_of(pod)):
        yield from _container(one)


def _volume(volume: dict[str, Any]) -> Iterator[str]:
    kinds = [kind for kind in volume if kind != "name"] or ["emptyDir"]
    for kind in kinds:
        if kind not in VOLUMES:
            yield f"volume {volume['name']} of type {kind}"
    for source in (volume.get("projected") or {}).get("sources") or []:
        for kind in source:
            if kind not in PROJECTED:
                yield f"volume {volume['name']} with projected source {kind}"
    if (volume.get("emptyDir") or {}).get("medium", "") not in ("", "Memory"):
        yield f"volume {volume['name']} with emptyDir.medium={volume['emptyDir']['medium']}"


def _container(spec: Mapping[str, Any]) -> Iterator[str]:
    name = spec["name"]
    if spec.get("volumeDevices"):
        yield f"volumeDevices of container {name}"
    if (spec.get("securityContext") or {}).get("seLinuxOptions"):
        yield f"seLinuxOptions of container {name}"
    for mount in spec.get("volumeMounts") or []:
        if mount.get("recursiveReadOnly") == "Enabled":
            yield f"recursiveReadOnly of volume mount {mount['name']} in container {name}"
    for kind in ("readinessProbe", "livenessProbe", "startupProbe"):
        if spec.get(kind) and not any(handler in spec[kind] for handler in HANDLERS):
            yield f"{kind} of container {name} (only {', '.join(HANDLERS)})"
    for kind, hook in (spec.get("lifecycle") or {}).items():
        if kind in ("preStop", "postStart") and not any(handler in hook for handler in HOOKS):
            yield f"lifecycle.{kind} of container {name} (only {', '.join(HOOKS)})"
