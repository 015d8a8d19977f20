"""What must hold of roles, bindings, certificate requests, priority levels and webhooks.

Pure and total. Must not know: HTTP, storage. Read next: `rules.py`, the table that uses them.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from minik8s.apiserver.kinds import causes
from minik8s.apiserver.kinds.defaults_pod import each, section
from minik8s.apiserver.request.status import Cause

Object = dict[str, Any]
PEM = re.compile(rb"^-----BEGIN CERTIFICATE REQUEST-----\s*\n([A-Za-z0-9+/=\s]*)-----END CERTIFICATE REQUEST-----", re.M)
RBAC = "rbac.authorization.k8s.io"


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


def certificate_request(obj: Object) -> Iterator[Cause]:
    """The shape of a PEM block, and who is to sign; whether it is signed by its own key is the signer's to find out."""
    spec = section(obj, "spec")
    if (text := spec.get("request")) and not is_request(str(text)):
        yield causes.wrong("spec.request", str(text)[:40], "PEM block type must be CERTIFICATE REQUEST")
    signer = str(spec.get("signerName") or "")
    domain, _, path = signer.partition("/")
    if signer and not (path and "." in domain):
        why = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        yield causes.wrong("spec.signerName", signer[:100], why)


def is_request(text: str) -> bool:
    """Whether this is, in base64, a PEM block with one DER value."""
    try:
        block = PEM.search(b64decode(text, validate=True))
        der = b64decode(b"".join(block[1].split()), validate=True) if block else b""
    except ValueError:
        return False
    if len(der) < 2 or der[0] != 0x30:
        return False
    size = der[1] & 0x7F if der[1] & 0x80 else 0
    length = int.from_bytes(der[2:2 + size]) if size else der[1]
    return len(der) == 2 + size + length


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
            if not subject.get("namespace") and obj.get("kind") == "ClusterRoleBinding":
                yield causes.required(f"{where}.namespace")
        elif kind in ("User", "Group"):
            yield from causes.one_of(f"{where}.apiGroup", subject.get("apiGroup"), (RBAC,))
        else:
            yield causes.unsupported(f"{where}.kind", kind, ["Group", "ServiceAccount", "User"])


def flow_rules(obj: Object) -> Iterator[Cause]:
    """What a FlowSchema is for: each rule is about resources, or paths."""
    for index, rule in enumerate(each(section(obj, "spec"), "rules")):
        if not rule.get("resourceRules") and not rule.get("nonResourceRules"):
            yield causes.required(f"spec.rules[{index}]",
                                  "at least one of resourceRules and nonResourceRules has to be non-empty")
        for at, subject in enumerate(each(rule, "subjects")):
            kind = str(subject.get("kind") or "")
            if kind and not subject.get(kind[0].lower() + kind[1:]):
                yield causes.required(f"spec.rules[{index}].subjects[{at}].{kind[0].lower() + kind[1:]}")


def priority_level(obj: Object) -> Iterator[Cause]:
    """A level has limits if it is Limited, and queues if it lets requests wait."""
    spec = section(obj, "spec")
    kind, limited = spec.get("type"), spec.get("limited")
    if kind == "Limited" and not limited:
        yield causes.required("spec.limited", "must not be empty when type is Limited")
    if kind == "Exempt" and limited:
        yield causes.forbidden("spec.limited", "must be nil if the type is not Limited")
    if kind == "Limited" and spec.get("exempt"):
        yield causes.forbidden("spec.exempt", "must be nil if the type is Limited")
    response = section(section(spec, "limited"), "limitResponse")
    if limited and not response.get("type"):
        yield causes.required("spec.limited.limitResponse.type")
    if response.get("type") == "Reject" and response.get("queuing"):
        yield causes.forbidden("spec.limited.limitResponse.queuing", "must be nil if limited.limitResponse.type is not Limited")


def _address(where: str, url: str) -> Iterator[Cause]:
    """Where a webhook is: over TLS, without a password, and nothing after its path."""
    try:
        found = urlsplit(url)
        good = bool(found.hostname) and found.port != 0
    except ValueError:
        good = False
    if not good or found.scheme != "https":
        yield causes.wrong(where, url[:200], "it is https://host[:port][/path]")
    elif "@" in found.netloc or "?" in url or "#" in url:
        yield causes.wrong(where, url[:200], "user information, query parameters and fragments are not permitted in it")


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
        if config.get("url"):
            yield from _address(f"{where}.clientConfig.url", str(config["url"]))
        if not {"v1", "v1beta1"} & set(hook.get("admissionReviewVersions") or ()):
            yield causes.wrong(f"{where}.admissionReviewVersions", hook.get("admissionReviewVersions"),
                               "must include at least one of v1, v1beta1")
        seconds = hook.get("timeoutSeconds")
        if isinstance(seconds, int) and not 1 <= seconds <= 30:
            yield causes.wrong(f"{where}.timeoutSeconds", seconds, "the timeout value must be between 1 and 30 seconds")
        if hook.get("matchConditions"):
            yield causes.forbidden(f"{where}.matchConditions", "CEL is not evaluated here")
