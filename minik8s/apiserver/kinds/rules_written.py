"""Rules that take more than a word: selectors and templates, schedules, ranges, role rules, webhooks.

Pure and total. Must not know: HTTP, storage. Read next: `rules.py`, the table that uses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from minik8s.apiserver.kinds import causes
from minik8s.apiserver.kinds.defaults_pod import each, section
from minik8s.apiserver.kinds.rule import Change, Rule
from minik8s.apiserver.kinds.validate_pod import pod_template, template_that_ends
from minik8s.apiserver.request.status import Cause
from nodecore.errors import Fault
from nodecore.kube.quantity import parse_quantity

Object = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"
LARGEST_PRIORITY = 1_000_000_000
SYSTEM = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
NOT_SOURCES = frozenset({
    "accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy", "storageClassName",
    "volumeAttributesClassName", "volumeMode"})
CRON = tuple(zip(("minute", "hour", "day", "month", "weekday"), ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7)), strict=True))
MONTHS, DAYS = "jan feb mar apr may jun jul aug sep oct nov dec", "sun mon tue wed thu fri sat"
CRON_NAMES = {name: number for names, first in ((MONTHS, 1), (DAYS, 0)) for number, name in enumerate(names.split(), first)}
CRON_TERM = re.compile(r"(\*|\?|[a-z0-9]+)(?:-([a-z0-9]+))?(?:/(\d{1,3}))?")
CRON_WORDS = frozenset({"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"})


def _inner(obj: Object, path: tuple[str, ...]) -> Object:
    for step in path:
        obj = section(obj, step)
    return obj


def always_runs(*path: str) -> Rule:
    """A template of pods that are started anew for ever."""
    return lambda obj: pod_template(".".join(path), _inner(obj, path))


def ends(*path: str) -> Rule:
    """A template of pods that come to an end."""
    return lambda obj: template_that_ends(".".join(path), _inner(obj, path))


def runs(*path: str) -> Rule:
    """A template of any pods."""
    return lambda obj: template_that_ends(".".join(path), _inner(obj, path), any_policy=True)


def selects_its_template(obj: Object) -> Iterator[Cause]:
    """A selector that is not empty and matches the template."""
    spec = section(obj, "spec")
    selector, own = section(spec, "selector"), section(section(section(spec, "template"), "metadata"), "labels")
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        yield causes.wrong("spec.selector", selector, "empty selector is invalid for statefulset")
    if not all(own.get(key) == value for key, value in section(selector, "matchLabels").items()):
        yield causes.wrong("spec.template.metadata.labels", own, "`selector` does not match template `labels`")


def controls_its_template(obj: Object) -> Iterator[Cause]:
    """The same, for a selector that is but labels."""
    spec = section(obj, "spec")
    own = section(section(section(spec, "template"), "metadata"), "labels")
    if not all(own.get(key) == value for key, value in section(spec, "selector").items()):
        yield causes.wrong("spec.template.metadata.labels", own, "`selector` does not match template `labels`")


def schedule(obj: Object) -> Iterator[Cause]:
    """Five fields of a crontab, or one of its words."""
    text = str(section(obj, "spec").get("schedule") or "")
    if "TZ=" in text:
        yield causes.wrong("spec.schedule", text, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
    elif text and text not in CRON_WORDS and not re.fullmatch(r"@every (\d+(\.\d+)?(h|m|s|ms))+", text):
        fields = text.lower().split()
        if len(fields) != len(CRON):
            yield causes.wrong("spec.schedule", text, f"expected exactly 5 fields, found {len(fields)}: {fields}")
            return
        for field, (name, (low, high)) in zip(fields, CRON, strict=True):
            if not all(_cron_term(term, low, high) for term in field.split(",")):
                yield causes.wrong("spec.schedule", text, f"the {name} {field!r} is not within {low}-{high}")


def _cron_term(term: str, low: int, high: int) -> bool:
    match = CRON_TERM.fullmatch(term)
    if not match or match[3] == "0":
        return False
    if match[1] in "*?":
        return match[2] is None
    bounds = [int(part) if part.isdecimal() else CRON_NAMES.get(part, -1) for part in (match[1], match[2] or match[1])]
    return low <= bounds[0] <= bounds[1] <= high


def range_of_replicas(obj: Object) -> Iterator[Cause]:
    """Not more at least than at most."""
    spec = section(obj, "spec")
    least, most = spec.get("minReplicas"), spec.get("maxReplicas")
    if isinstance(least, int) and isinstance(most, int) and 0 < most < least:
        yield causes.wrong("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")


def one_bound(obj: Object) -> Iterator[Cause]:
    """A budget's minimum or its maximum, a number or a percentage."""
    spec = section(obj, "spec")
    given = [key for key in ("minAvailable", "maxUnavailable") if spec.get(key) is not None]
    if len(given) == 2:
        yield causes.wrong("spec", {key: spec[key] for key in given}, "minAvailable and maxUnavailable cannot be both set")
    for key in given:
        text = str(spec[key])
        if not re.fullmatch(r"\d+%?", text) or (text.endswith("%") and int(text[:-1]) > 100):
            yield causes.wrong(f"spec.{key}", spec[key], "must be a non-negative integer or a percentage up to 100%")


def blocks(obj: Object) -> Iterator[Cause]:
    """The address blocks of a NetworkPolicy, and what is left out of them."""
    spec = section(obj, "spec")
    for way, side in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(each(spec, way)):
            for at, peer in enumerate(each(rule, side)):
                where, block = f"spec.{way}[{index}].{side}[{at}]", section(peer, "ipBlock")
                if block and (peer.get("podSelector") or peer.get("namespaceSelector")):
                    yield causes.forbidden(where, "may not specify both ipBlock and another peer")
                elif not peer:
                    yield causes.required(where, "must specify a peer")
                if block:
                    yield from _block(f"{where}.ipBlock", block)


def _block(where: str, block: Object) -> Iterator[Cause]:
    whole = _network(block.get("cidr"))
    if whole is None:
        yield causes.wrong(f"{where}.cidr", block.get("cidr"), "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
        return
    for index, text in enumerate(block.get("except") or []):
        part = _network(text)
        if part is None or part.version != whole.version or not part.subnet_of(whole) or part == whole:
            yield causes.wrong(f"{where}.except[{index}]", text, f"must be a strict subset of `cidr`: {block['cidr']}")


def _network(text: Any) -> Any:
    try:
        return ip_network(str(text), strict=False)
    except ValueError:
        return None


def ranges(obj: Object) -> Iterator[Cause]:
    """At most one range of a family, written as networks are."""
    found = section(obj, "spec").get("cidrs") or []
    families = set()
    for index, text in enumerate(found):
        network = _network(text)
        if network is None or str(network) != text:
            yield causes.wrong(f"spec.cidrs[{index}]", text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
        elif network.version in families:
            yield causes.wrong("spec.cidrs", found, "may only contain one value for each IP family")
        else:
            families.add(network.version)


def leads_somewhere(obj: Object) -> Iterator[Cause]:
    """Rules or a default backend."""
    spec = section(obj, "spec")
    if not spec.get("rules") and not spec.get("defaultBackend"):
        yield causes.wrong("spec", spec, "either `defaultBackend` or `rules` must be specified")


def paths(obj: Object) -> Iterator[Cause]:
    """The paths of an Ingress, and what is behind them."""
    spec = section(obj, "spec")
    if spec.get("defaultBackend"):
        yield from _backend("spec.defaultBackend", section(spec, "defaultBackend"))
    for index, rule in enumerate(each(spec, "rules")):
        for at, path in enumerate(each(section(rule, "http"), "paths")):
            where = f"spec.rules[{index}].http.paths[{at}]"
            yield from causes.one_of(f"{where}.pathType", path.get("pathType"), ("Exact", "ImplementationSpecific", "Prefix"))
            if path.get("pathType") in ("Exact", "Prefix") and not str(path.get("path") or "").startswith("/"):
                yield causes.wrong(f"{where}.path", path.get("path"), "must be an absolute path")
            yield from _backend(f"{where}.backend", section(path, "backend"))


def _backend(where: str, backend: Object) -> Iterator[Cause]:
    service = section(backend, "service")
    if bool(service) == bool(backend.get("resource")):
        yield causes.required(where, "exactly one of `service` and `resource` must be specified")
    elif service:
        if not service.get("name"):
            yield causes.required(f"{where}.service.name")
        port = section(service, "port")
        if not port.get("name") and not port.get("number"):
            yield causes.required(f"{where}.service.port", "port name or number is required")


def modes(obj: Object) -> Iterator[Cause]:
    """How a volume may be mounted."""
    for index, mode in enumerate(section(obj, "spec").get("accessModes") or []):
        yield from causes.one_of(f"spec.accessModes[{index}]", mode, MODES)


def asks_for_storage(obj: Object) -> Iterator[Cause]:
    """A claim is for some bytes."""
    requests = section(section(section(obj, "spec"), "resources"), "requests")
    if requests and not requests.get("storage"):
        yield causes.required("spec.resources.requests[storage]")


def one_source(obj: Object) -> Iterator[Cause]:
    """A volume is in one place."""
    found = _sources(obj)
    if not found:
        yield causes.required("spec", "must specify a volume type")
    for name in sorted(found)[1:]:
        yield causes.forbidden(f"spec.{name}", "may not specify more than 1 volume type")


def _sources(obj: Object) -> Object:
    return {key: value for key, value in section(obj, "spec").items() if key not in NOT_SOURCES and value is not None}


def volume_source(old: Object, new: Object) -> Iterator[Cause]:
    """A volume stays where it is."""
    if _sources(old) != _sources(new):
        yield causes.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation")


def claim_spec(words: str) -> Change:
    """A claim may become larger, and bound once."""
    def check(old: Object, new: Object) -> Iterator[Cause]:
        before, after = dict(section(old, "spec")), dict(section(new, "spec"))
        for key in ("resources", "volumeAttributesClassName", *(() if before.get("volumeName") else ("volumeName",)),
                    *(() if before.get("storageClassName") is not None else ("storageClassName",))):
            before.pop(key, None)
            after.pop(key, None)
        if before != after:
            yield causes.forbidden("spec", words)
        sizes = [_quantity(section(section(section(obj, "spec"), "resources"), "requests").get("storage")) for obj in (old, new)]
        if sizes[1] < sizes[0]:
            yield causes.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity")

    return check


def _quantity(text: Any) -> Any:
    try:
        return parse_quantity(text) if text is not None else 0
    except Fault:
        return 0


def quantities(obj: Object) -> Iterator[Cause]:
    """What a quota allows is not less than nothing."""
    for name, amount in section(section(obj, "spec"), "hard").items():
        if _quantity(amount) < 0:
            yield causes.wrong(f"spec.hard[{name}]", amount, "must be greater than or equal to 0")


def priority(obj: Object) -> Iterator[Cause]:
    """Names and values that are the system's are not for others."""
    name, value = str(obj["metadata"].get("name", "")), obj.get("value")
    if name.startswith("system-") and (name not in SYSTEM or value != SYSTEM[name]):
        yield causes.forbidden("metadata.name", "priority class names with 'system-' prefix are reserved for system use only. "
                                                f"error: {name} is not a known system priority class")
    elif isinstance(value, int) and value > LARGEST_PRIORITY and name not in SYSTEM:
        yield causes.forbidden("value", f"maximum allowed value of a user defined priority is {LARGEST_PRIORITY}")


def policy_rules(obj: Object) -> Iterator[Cause]:
    """A role's rules: verbs on resources of groups, or on paths."""
    for index, rule in enumerate(each(obj, "rules")):
        where, role = f"rules[{index}]", obj.get("kind") == "Role"
        if not rule.get("verbs"):
            yield causes.required(f"{where}.verbs", "verbs must contain at least one value")
        if rule.get("nonResourceURLs"):
            if role:
                yield causes.wrong(f"{where}.nonResourceURLs", rule["nonResourceURLs"],
                                   "namespaced rules cannot apply to non-resource URLs")
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                yield causes.wrong(f"{where}.nonResourceURLs", rule["nonResourceURLs"],
                                   "rules cannot apply to both regular resources and non-resource URLs")
            continue
        if not rule.get("apiGroups"):
            yield causes.required(f"{where}.apiGroups", "resource rules must supply at least one api group")
        if not rule.get("resources"):
            yield causes.required(f"{where}.resources", "resource rules must supply at least one resource")


def role_reference(obj: Object) -> Iterator[Cause]:
    """A binding's role."""
    ref = section(obj, "roleRef")
    kinds = ("ClusterRole",) if obj.get("kind") == "ClusterRoleBinding" else ("ClusterRole", "Role")
    yield from causes.one_of("roleRef.apiGroup", ref.get("apiGroup"), (RBAC,))
    yield from causes.one_of("roleRef.kind", ref.get("kind"), kinds)
    if not ref.get("name"):
        yield causes.required("roleRef.name")


def subjects(obj: Object) -> Iterator[Cause]:
    """Who is bound to it."""
    for index, subject in enumerate(each(obj, "subjects")):
        where, kind = f"subjects[{index}]", subject.get("kind")
        if not subject.get("name"):
            yield causes.required(f"{where}.name")
        if kind == "ServiceAccount":
            if subject.get("apiGroup"):
                yield causes.unsupported(f"{where}.apiGroup", subject["apiGroup"], [""])
            if not subject.get("namespace"):
                yield causes.required(f"{where}.namespace")
        elif kind in ("User", "Group"):
            yield from causes.one_of(f"{where}.apiGroup", subject.get("apiGroup"), (RBAC,))
        else:
            yield causes.unsupported(f"{where}.kind", kind, ["Group", "ServiceAccount", "User"])


def webhooks(obj: Object) -> Iterator[Cause]:
    """Each webhook: its name, where it is, what it may do."""
    seen: set[str] = set()
    for index, hook in enumerate(each(obj, "webhooks")):
        where, name = f"webhooks[{index}]", str(hook.get("name") or "")
        if name.count(".") < 2 or not causes.SUBDOMAIN.fullmatch(name):
            yield causes.wrong(f"{where}.name", name, "should be a domain with at least three segments separated by dots")
        if name in seen:
            yield causes.duplicate(f"{where}.name", name)
        seen.add(name)
        yield from causes.one_of(f"{where}.sideEffects", hook.get("sideEffects"), ("None", "NoneOnDryRun"))
        yield from causes.one_of(f"{where}.failurePolicy", hook.get("failurePolicy"), ("Fail", "Ignore"))
        config = section(hook, "clientConfig")
        if bool(config.get("url")) == bool(config.get("service")):
            yield causes.required(f"{where}.clientConfig", "exactly one of url or service is required")
        if not {"v1", "v1beta1"} & set(hook.get("admissionReviewVersions") or ()):
            yield causes.wrong(f"{where}.admissionReviewVersions", hook.get("admissionReviewVersions"),
                               "must include at least one of v1, v1beta1")
        seconds = hook.get("timeoutSeconds")
        if isinstance(seconds, int) and not 1 <= seconds <= 30:
            yield causes.wrong(f"{where}.timeoutSeconds", seconds, "the timeout value must be between 1 and 30 seconds")
        if hook.get("matchConditions"):
            yield causes.forbidden(f"{where}.matchConditions", "CEL is not evaluated here")


def job_template(old: Object, new: Object) -> Iterator[Cause]:
    """A Job's pods stay what they are, unless it has yet to begin."""
    before, after = section(old, "spec"), section(new, "spec")
    waiting = before.get("suspend") and not section(old, "status").get("startTime")
    if before.get("template") != after.get("template") and not waiting:
        yield causes.wrong("spec.template", "...", "field is immutable")
    if before.get("completions") != after.get("completions") and not (
            before.get("completionMode") == "Indexed" and after.get("completions") == after.get("parallelism")):
        yield causes.wrong("spec.completions", after.get("completions"), "field is immutable")
