"""The columns of what lets traffic, people and programs in: ingresses, addresses, bindings, certificates, webhooks. Pure.

Must not know: HTTP. Read next: `cells.py`.
"""

from __future__ import annotations

import datetime
from typing import Any

from minik8s.apiserver.schema.age import human
from minik8s.apiserver.schema.cells import NONE, Columns, Object, age_of, few, layout, name_of, part, simple


def _ingress(obj: Object) -> list[Any]:
    spec = obj.get("spec") or {}
    hosts = [rule["host"] for rule in spec.get("rules") or [] if rule.get("host")]
    balancers = part(obj, "status", "loadBalancer", "ingress") or []
    addresses = [item.get("ip") or item.get("hostname") or "" for item in balancers]
    return [spec.get("ingressClassName") or NONE, few(hosts, empty="*"), ",".join(filter(None, addresses)),
            "80, 443" if spec.get("tls") else "80"]


def _ingress_class(obj: Object) -> list[Any]:
    found = part(obj, "spec", "parameters") or {}
    group = f".{found['apiGroup']}" if found.get("apiGroup") else ""
    return [part(obj, "spec", "controller") or "", f"{found.get('kind', '')}{group}/{found.get('name', '')}" if found else NONE]


def _parent(obj: Object) -> list[Any]:
    ref = part(obj, "spec", "parentRef") or {}
    words = (ref.get("group"), ref.get("resource"), ref.get("namespace"), ref.get("name"))
    return ["/".join(word for word in words if word)]


def _binding(obj: Object, now: datetime.datetime) -> list[Any]:
    role, subjects = obj.get("roleRef") or {}, obj.get("subjects") or []
    users, groups = (", ".join(item.get("name", "") for item in subjects if item.get("kind") == kind)
                     for kind in ("User", "Group"))
    accounts = ", ".join(f"{item.get('namespace', '')}/{item.get('name', '')}" for item in subjects
                         if item.get("kind") == "ServiceAccount")
    return [name_of(obj), f"{role.get('kind', '')}/{role.get('name', '')}", age_of(obj, now), users, groups, accounts]


def _request(obj: Object, now: datetime.datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    seconds = spec.get("expirationSeconds")
    conditions = [item.get("type", "") for item in part(obj, "status", "conditions") or []]
    state = "Denied" if "Denied" in conditions else "Approved" if "Approved" in conditions else ""
    words = [state or "Pending", *(["Failed"] if "Failed" in conditions else []),
             *(["Issued"] if part(obj, "status", "certificate") else [])]
    return [name_of(obj), age_of(obj, now), spec.get("signerName", ""), spec.get("username", ""),
            NONE if seconds is None else human(seconds), ",".join(words)]


def _flow(obj: Object, now: datetime.datetime) -> list[Any]:
    dangling = [item.get("status", "") for item in part(obj, "status", "conditions") or [] if item.get("type") == "Dangling"]
    return [name_of(obj), part(obj, "spec", "priorityLevelConfiguration", "name") or "", part(obj, "spec", "matchingPrecedence"),
            part(obj, "spec", "distinguisherMethod", "type") or NONE, age_of(obj, now), dangling[0] if dangling else "?"]


def _level(obj: Object) -> list[Any]:
    limited = part(obj, "spec", "limited") or {}
    queuing = part(limited, "limitResponse", "queuing") or {}
    return [part(obj, "spec", "type"), limited.get("nominalConcurrencyShares", NONE),
            *(queuing.get(key, NONE) for key in ("queues", "handSize", "queueLengthLimit"))]


BINDING = Columns(layout(("Name", "Role", "Age"), ("Users", "Groups", "ServiceAccounts")), _binding)
WEBHOOKS = simple("Webhooks", lambda obj: [len(obj.get("webhooks") or ())], ("Webhooks",))
KINDS: dict[str, Columns] = {
    "Ingress": simple("Class Hosts Address Ports", _ingress),
    "IngressClass": simple("Controller Parameters", _ingress_class),
    "IPAddress": simple("ParentRef", _parent),
    "ServiceCIDR": simple("CIDRs", lambda obj: [",".join(part(obj, "spec", "cidrs") or [])]),
    "RoleBinding": BINDING, "ClusterRoleBinding": BINDING,
    "CertificateSigningRequest": Columns(
        layout(("Name", "Age", "SignerName", "Requestor", "RequestedDuration", "Condition")), _request),
    "FlowSchema": Columns(layout(
        ("Name", "PriorityLevel", "MatchingPrecedence", "DistinguisherMethod", "Age", "MissingPL")), _flow),
    "PriorityLevelConfiguration": simple("Type NominalConcurrencyShares Queues HandSize QueueLengthLimit", _level),
    "MutatingWebhookConfiguration": WEBHOOKS, "ValidatingWebhookConfiguration": WEBHOOKS,
}
