"""Does a pod make sense, alone or as a template, and which of its changes are allowed.

Pure and total. Must not know: HTTP, storage. Read next: `causes.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from minik8s.apiserver.kinds import causes
from minik8s.apiserver.kinds.defaults_pod import PROBES, each, section
from minik8s.apiserver.request.status import Cause
from nodecore.errors import Fault
from nodecore.kube.quantity import parse_quantity

Object = dict[str, Any]
PROTOCOLS = ("TCP", "UDP", "SCTP")
PULL = ("Always", "IfNotPresent", "Never")
RESTART = ("Always", "OnFailure", "Never")
DNS = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
MAY_CHANGE = ("spec.containers[*].image,spec.initContainers[*].image,spec.activeDeadlineSeconds,spec.tolerations "
              "(only additions to existing tolerations),spec.terminationGracePeriodSeconds (allow it to be set to 1 if it was "
              "previously negative)")


def pod(obj: Object) -> Iterator[Cause]:
    """All that is wrong with a pod."""
    yield from _spec("spec", section(obj, "spec"))


def pod_template(field: str, template: Object, claims: Iterable[str] = ()) -> Iterator[Cause]:
    """All that is wrong with a workload's template; `claims` are volumes that its pods are given besides."""
    yield from causes.labels(f"{field}.metadata.labels", section(template, "metadata").get("labels"))
    spec = section(template, "spec")
    yield from _spec(f"{field}.spec", spec, claims)
    if spec.get("restartPolicy", "Always") != "Always":
        yield causes.unsupported(f"{field}.spec.restartPolicy", spec["restartPolicy"], ["Always"])


def template_that_ends(field: str, template: Object, *, any_policy: bool = False) -> Iterator[Cause]:
    """All that is wrong with the template of pods that are not started anew for ever."""
    yield from causes.labels(f"{field}.metadata.labels", section(template, "metadata").get("labels"))
    spec = section(template, "spec")
    yield from _spec(f"{field}.spec", spec)
    if not any_policy and spec.get("restartPolicy", "Always") == "Always":
        yield causes.required(f"{field}.spec.restartPolicy", 'valid values: "OnFailure", "Never"')


def _spec(field: str, spec: Object, claims: Iterable[str] = ()) -> Iterator[Cause]:
    volumes = {*claims, *(str(volume.get("name")) for volume in each(spec, "volumes"))}
    yield from _unique(f"{field}.volumes", each(spec, "volumes"))
    containers = each(spec, "containers")
    if not containers:
        yield causes.required(f"{field}.containers")
    yield from _unique(f"{field}.containers", [*containers, *each(spec, "initContainers")])
    for part in ("initContainers", "containers"):
        for index, container in enumerate(each(spec, part)):
            yield from _container(f"{field}.{part}[{index}]", container, volumes)
    yield from causes.one_of(f"{field}.restartPolicy", spec.get("restartPolicy", "Always"), RESTART)
    yield from causes.one_of(f"{field}.dnsPolicy", spec.get("dnsPolicy", "ClusterFirst"), DNS)
    if spec.get("nodeName"):
        yield from causes.subdomain(f"{field}.nodeName", spec["nodeName"])
    yield from causes.labels(f"{field}.nodeSelector", spec.get("nodeSelector"))
    grace = spec.get("terminationGracePeriodSeconds", 0)
    if isinstance(grace, int) and grace < 0:
        yield causes.wrong(f"{field}.terminationGracePeriodSeconds", grace, "must be greater than or equal to 0")


def _unique(field: str, named: list[Object]) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, item in enumerate(named):
        name = str(item.get("name") or "")
        if not name:
            yield causes.required(f"{field}[{index}].name")
        else:
            yield from causes.label_name(f"{field}[{index}].name", name)
        if name and name in seen:
            yield causes.duplicate(f"{field}[{index}].name", name)
        seen.add(name)


def _container(field: str, container: Object, volumes: set[str]) -> Iterator[Cause]:
    image = container.get("image")
    if not image:
        yield causes.required(f"{field}.image")
    elif image != image.strip():
        yield causes.wrong(f"{field}.image", image, "must not have leading or trailing whitespace")
    yield from causes.one_of(f"{field}.imagePullPolicy", container.get("imagePullPolicy", "Always"), PULL)
    yield from _ports(f"{field}.ports", each(container, "ports"))
    for index, variable in enumerate(each(container, "env")):
        if not variable.get("name") or "=" in str(variable["name"]):
            yield causes.wrong(f"{field}.env[{index}].name", variable.get("name", ""), "must be a name without '='")
        if variable.get("value") and variable.get("valueFrom"):
            yield causes.wrong(f"{field}.env[{index}].valueFrom", "", "may not be specified when `value` is not empty")
    for index, mount in enumerate(each(container, "volumeMounts")):
        if mount.get("name") not in volumes:
            yield Cause(f"{field}.volumeMounts[{index}].name", f'Not found: "{mount.get("name", "")}"', "FieldValueNotFound")
        if not mount.get("mountPath"):
            yield causes.required(f"{field}.volumeMounts[{index}].mountPath")
    for name in PROBES:
        probe = section(container, name)
        handlers = [handler for handler in HANDLERS if probe.get(handler)]
        if probe and len(handlers) != 1:
            yield causes.required(f"{field}.{name}", "must specify a handler type") if not handlers else causes.forbidden(
                f"{field}.{name}.{handlers[1]}", "may not specify more than 1 handler type")
    yield from _resources(f"{field}.resources", section(container, "resources"))


def _ports(field: str, ports: list[Object]) -> Iterator[Cause]:
    names: set[str] = set()
    for index, entry in enumerate(ports):
        yield from causes.port(f"{field}[{index}].containerPort", entry.get("containerPort"))
        if entry.get("hostPort"):
            yield from causes.port(f"{field}[{index}].hostPort", entry["hostPort"])
        yield from causes.one_of(f"{field}[{index}].protocol", entry.get("protocol", "TCP"), PROTOCOLS)
        name = entry.get("name")
        if not name:
            continue
        if len(name) > 15 or not causes.LABEL.fullmatch(name) or name.isdecimal():
            yield causes.wrong(f"{field}[{index}].name", name, "must be no more than 15 characters, lower case alphanumeric or "
                                                               "'-', with at least one letter")
        if name in names:
            yield causes.duplicate(f"{field}[{index}].name", name)
        names.add(name)


def _resources(field: str, resources: Object) -> Iterator[Cause]:
    amounts: dict[tuple[str, str], Any] = {}
    for part in ("limits", "requests"):
        for name, text in section(resources, part).items():
            try:
                amount = parse_quantity(str(text))
            except (Fault, ValueError):
                yield causes.wrong(f"{field}.{part}[{name}]", text, "quantities must match a number with an optional suffix")
                continue
            if amount < 0:
                yield causes.wrong(f"{field}.{part}[{name}]", text, "must be greater than or equal to 0")
            amounts[part, name] = amount
    for (part, name), amount in amounts.items():
        limit = amounts.get(("limits", name))
        if part == "requests" and limit is not None and amount > limit:
            yield causes.wrong(f"{field}.requests", resources["requests"][name], f"must be less than or equal to {name} limit of "
                                                                                 f"{resources['limits'][name]}")


def debug_change(old: Object, new: Object) -> Iterator[Cause]:
    """Ephemeral containers come, and then stay as they are."""
    before, after = (each(section(obj, "spec"), "ephemeralContainers") for obj in (old, new))
    spec = section(new, "spec")
    kept = {item.get("name"): item for item in after}
    for item in before:
        name = item.get("name")
        if kept.get(name) != item:
            what = "changed" if name in kept else "removed"
            yield causes.forbidden("spec.ephemeralContainers", f"existing ephemeral containers {name!r} may not be {what}")
    yield from _unique("spec.ephemeralContainers", [*after, *each(spec, "containers"), *each(spec, "initContainers")])
    targets = {item.get("name") for item in each(spec, "containers")}
    for index, item in enumerate(after):
        field = f"spec.ephemeralContainers[{index}]"
        if item.get("targetContainerName") and item["targetContainerName"] not in targets:
            yield Cause(f"{field}.targetContainerName", f'Not found: "{item["targetContainerName"]}"', "FieldValueNotFound")
        for key in ("ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"):
            if item.get(key):
                yield causes.forbidden(f"{field}.{key}", "cannot be set for an Ephemeral Container")


def pod_change(old: Object, new: Object) -> Iterator[Cause]:
    """What a running pod may not become: all but its images, its deadline and more tolerations is fixed."""
    before, after = dict(section(old, "spec")), dict(section(new, "spec"))
    for part in ("containers", "initContainers"):
        then, now = each(before, part), each(after, part)
        if len(then) != len(now):
            yield causes.forbidden(f"spec.{part}", "pod updates may not add or remove containers")
            return
        after[part] = [{**item, "image": previous.get("image")} for item, previous in zip(now, then, strict=True)]
        before[part] = then
    kept = each(before, "tolerations")
    if all(item in each(after, "tolerations") for item in kept):
        before.pop("tolerations", None)
        after.pop("tolerations", None)
    for spec in (before, after):
        spec.pop("activeDeadlineSeconds", None)
    present = [part for part in ("containers", "initContainers") if before[part] or after[part]]
    for key in sorted({*before, *after} - {"containers", "initContainers"} | set(present)):
        if before.get(key) != after.get(key):
            yield causes.forbidden("spec", f"pod updates may not change fields other than {MAY_CHANGE}; spec.{key} changed")
            return
