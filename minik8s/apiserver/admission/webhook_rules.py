"""Which webhooks a write concerns, and what their configurations may not say. Pure.

Read next: `webhooks.py`.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.admission.asked import Asked
from minik8s.apiserver.auth.rbac import selects

Object = dict[str, Any]
GROUP = "admissionregistration.k8s.io"
MUTATING, VALIDATING = "mutatingwebhookconfigurations", "validatingwebhookconfigurations"


def concerned(hook: Object, asked: Asked, labels: Object) -> bool:
    """Whether a webhook is to be asked about a write; `labels` are those of the namespace."""
    if asked.kind.resource.group == GROUP or not hook_of_rules(hook, asked):
        return False
    if asked.namespace and not selects(hook.get("namespaceSelector") or {}, labels):
        return False
    selector = hook.get("objectSelector") or {}
    objects = [obj for obj in (asked.obj, asked.old) if obj]
    return not selector or any(selects(selector, (obj.get("metadata") or {}).get("labels") or {}) for obj in objects)


def hook_of_rules(hook: Object, asked: Asked) -> bool:
    """Whether the rules of a webhook fit a write, whatever the object is."""
    return any(_rule_fits(rule, asked) for rule in hook.get("rules") or ())


def _rule_fits(rule: Object, asked: Asked) -> bool:
    resource = asked.kind.resource
    scope = rule.get("scope") or "*"
    if scope != "*" and (scope == "Namespaced") is not bool(resource.namespaced):
        return False
    wanted = rule.get("resources") or ()
    plural = resource.plural
    names = {f"{plural}/{asked.sub}", f"{plural}/*", f"*/{asked.sub}", "*/*"} if asked.sub else {plural, "*", "*/*"}
    return any(each in ("*", asked.operation) for each in rule.get("operations") or ()) \
        and any(each in ("*", resource.group) for each in rule.get("apiGroups") or ()) \
        and any(each in ("*", resource.version) for each in rule.get("apiVersions") or ()) and bool(names & set(wanted))


def unsupported(configuration: Object) -> str:
    """What a configuration asks for that is not done here; empty when there is nothing."""
    for number, hook in enumerate(configuration.get("webhooks") or ()):
        if hook.get("matchConditions"):
            return f"webhooks[{number}].matchConditions: CEL is not evaluated by this server"
        if hook.get("reinvocationPolicy") == "IfNeeded":
            return f"webhooks[{number}].reinvocationPolicy: IfNeeded is not supported by this server; supported: Never"
        if "v1" not in (hook.get("admissionReviewVersions") or ()):
            return f"webhooks[{number}].admissionReviewVersions: v1 must be among them"
    return ""


class WebhookConfigurations:
    """The plugin that refuses configurations this server could not keep to."""

    name = "WebhookConfigurations"
    needs: tuple[str, ...] = ()

    def concerns(self, asked: Asked) -> bool:
        """The configurations."""
        return asked.kind.resource.plural in (MUTATING, VALIDATING)

    def shape(self, asked: Asked) -> None:
        """Nothing."""

    def check(self, asked: Asked) -> None:
        """Refuse by name what is not supported."""
        if why := unsupported(asked.obj):
            raise asked.refuse(why)
