"""What must hold of what runs, scales and guards pods: selectors and templates, schedules, ranges, budgets.

Pure and total. Must not know: HTTP, storage. Read next: `rules.py`, the table that uses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from minik8s.apiserver.kinds import causes
from minik8s.apiserver.kinds.defaults_pod import each, section
from minik8s.apiserver.kinds.rule import Rule
from minik8s.apiserver.kinds.validate_pod import pod_template, template_that_ends
from minik8s.apiserver.request.status import Cause

Object = dict[str, Any]
LARGEST_PRIORITY = 1_000_000_000
SYSTEM = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
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


def set_template(obj: Object) -> Iterator[Cause]:
    """The template of a StatefulSet, whose pods have a volume of each claim's name as well."""
    spec = section(obj, "spec")
    claims = [str(section(claim, "metadata").get("name")) for claim in each(spec, "volumeClaimTemplates")]
    return pod_template("spec.template", section(spec, "template"), claims)


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


def job_template(old: Object, new: Object) -> Iterator[Cause]:
    """A Job's pods stay what they are, unless it has yet to begin."""
    before, after = section(old, "spec"), section(new, "spec")
    waiting = before.get("suspend") and not section(old, "status").get("startTime")
    if before.get("template") != after.get("template") and not waiting:
        yield causes.wrong("spec.template", "...", "field is immutable")
    if before.get("completions") != after.get("completions") and not (
            before.get("completionMode") == "Indexed" and after.get("completions") == after.get("parallelism")):
        yield causes.wrong("spec.completions", after.get("completions"), "field is immutable")


def priority(obj: Object) -> Iterator[Cause]:
    """Names and values that are the system's are not for others."""
    name, value = str(obj["metadata"].get("name", "")), obj.get("value")
    if name.startswith("system-") and (name not in SYSTEM or value != SYSTEM[name]):
        yield causes.forbidden("metadata.name", "priority class names with 'system-' prefix are reserved for system use only. "
                                                f"error: {name} is not a known system priority class")
    elif isinstance(value, int) and value > LARGEST_PRIORITY and name not in SYSTEM:
        yield causes.forbidden("value", f"maximum allowed value of a user defined priority is {LARGEST_PRIORITY}")
