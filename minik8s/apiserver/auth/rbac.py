"""Roles and bindings compiled to an index from subjects to rules; and whether rules cover other rules.

    index = Index(roles, bindings)         as `read_role` and `read_binding` make them of the API's objects
    index.allows(user, attributes)         "" or the binding that allows it

Pure: an index never changes, `access.py` makes a new one when an object did. Must not know: storage, HTTP.
Read next: `policy.py`, the roles there are from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

from minik8s.apiserver.auth.authorize import ACCOUNT_PREFIX, Attributes, User, account

Object = dict[str, Any]
GROUP = "rbac.authorization.k8s.io"
CLUSTER = ""
@dataclass(frozen=True, slots=True)
class Rule:
    """One PolicyRule."""

    verbs: frozenset[str]
    groups: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()

    def allows(self, asked: Attributes) -> bool:
        """Whether it allows what is asked for."""
        if asked.verb not in self.verbs and "*" not in self.verbs:
            return False
        if asked.path:
            return any(_path_matches(pattern, asked.path) for pattern in self.paths)
        return (asked.group in self.groups or "*" in self.groups) and self._has_resource(asked.resource) \
            and (not self.names or asked.name in self.names)

    def _has_resource(self, resource: str) -> bool:
        if resource in self.resources or "*" in self.resources:
            return True
        _, slash, sub = resource.partition("/")
        return bool(slash) and f"*/{sub}" in self.resources


@dataclass(frozen=True, slots=True)
class Role:
    """A role or, without a namespace, a cluster role."""

    namespace: str
    name: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding or, without a namespace, a cluster binding: what it refers to, and keys of the subjects."""

    namespace: str
    name: str
    cluster_role: bool
    role: str
    subjects: tuple[str, ...]


class Granted(NamedTuple):
    """The rules a subject has by one binding."""

    rules: tuple[Rule, ...]
    binding: Binding


NOTHING: tuple[Granted, ...] = ()


def rule_of(raw: Object) -> Rule:
    """One PolicyRule as the API has it."""
    def words(field: str) -> frozenset[str]:
        return _shared(tuple(str(word) for word in raw.get(field) or ()))
    return Rule(words("verbs"), words("apiGroups"), words("resources"), words("resourceNames"),
                tuple(sorted(words("nonResourceURLs"))))


@lru_cache(2048)
def _shared(words: tuple[str, ...]) -> frozenset[str]:
    """Rules are full of the same few words."""
    return frozenset(words)


def rules_of(role: Object) -> tuple[Rule, ...]:
    """The rules of a role."""
    return tuple(rule_of(each) for each in role.get("rules") or () if isinstance(each, dict))


def read_role(obj: Object) -> Role:
    """A Role or ClusterRole of the API."""
    return Role(obj["metadata"].get("namespace", ""), name_of(obj), rules_of(obj))


def read_binding(obj: Object) -> Binding:
    """A RoleBinding or ClusterRoleBinding of the API."""
    namespace, ref = obj["metadata"].get("namespace", ""), obj.get("roleRef") or {}
    subjects = tuple(_subject(each, namespace) for each in obj.get("subjects") or ())
    return Binding(namespace, name_of(obj), ref.get("kind") == "ClusterRole", str(ref.get("name")), subjects)


def _path_matches(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))


class Index:
    """Who has which rules where."""

    def __init__(self, roles: Iterable[Role] = (), bindings: Iterable[Binding] = ()) -> None:
        self.roles = {(role.namespace, role.name): role.rules for role in roles}
        self._granted: dict[str, dict[str, list[Granted]]] = {}
        for binding in bindings:
            rules = self.roles.get((CLUSTER if binding.cluster_role else binding.namespace, binding.role))
            if rules and (binding.cluster_role or binding.namespace):
                for subject in binding.subjects:
                    self._granted.setdefault(subject, {}).setdefault(binding.namespace, []).append(Granted(rules, binding))

    def granted(self, user: User, namespace: str) -> Iterator[tuple[str, Granted]]:
        """Everything a user has in a namespace (empty: everywhere), and by which subject."""
        for key in (f"User {user.name}", *(f"Group {group}" for group in user.groups)):
            places = self._granted.get(key)
            if places:
                for place in (CLUSTER, namespace) if namespace else (CLUSTER,):
                    for granted in places.get(place, NOTHING):
                        yield key, granted

    def allows(self, user: User, asked: Attributes) -> str:
        """Why a user may do this; empty when nothing allows it."""
        for subject, (rules, binding) in self.granted(user, "" if asked.path else asked.namespace):
            if any(rule.allows(asked) for rule in rules):
                return _reason(subject, binding)
        return ""

    def rules(self, user: User, namespace: str) -> tuple[Rule, ...]:
        """All rules a user has in a namespace."""
        return tuple(dict.fromkeys(rule for _, granted in self.granted(user, namespace) for rule in granted.rules))

    def referred(self, ref: Mapping[str, Any], namespace: str) -> tuple[Rule, ...] | None:
        """The rules of the role a binding names; None when there is no such role."""
        return self.roles.get((CLUSTER if ref.get("kind") == "ClusterRole" else namespace, str(ref.get("name"))))


def name_of(obj: Object) -> str:
    """An object's name."""
    return str(obj["metadata"].get("name", ""))


def _subject(subject: Object, namespace: str) -> str:
    kind, name = subject.get("kind"), str(subject.get("name", ""))
    if kind == "ServiceAccount":
        return f"User {account(str(subject.get('namespace') or namespace), name)}"
    return f"{kind} {name}"


def _reason(subject: str, binding: Binding) -> str:
    kind, _, name = subject.partition(" ")
    if found := account_of(name) if kind == "User" else None:
        kind, name = "ServiceAccount", f"{found[1]}/{found[0]}"
    where = f'RoleBinding "{binding.name}/{binding.namespace}"' if binding.namespace else f'ClusterRoleBinding "{binding.name}"'
    role = "ClusterRole" if binding.cluster_role else "Role"
    return f'RBAC: allowed by {where} of {role} "{binding.role}" to {kind} "{name}"'


def uncovered(own: Iterable[Rule], wanted: Iterable[Rule]) -> list[Rule]:
    """The single permissions in `wanted` that `own` does not have: what would be an escalation."""
    have = tuple(own)
    return [single for rule in wanted for single in _singles(rule) if not any(_covers(each, single) for each in have)]


def combinations(rule: Rule) -> int:
    """How many single permissions a rule has."""
    return len(rule.verbs) * (len(rule.groups) * len(rule.resources) * max(1, len(rule.names)) + len(rule.paths))


def _singles(rule: Rule) -> Iterator[Rule]:
    names: Iterable[str] = sorted(rule.names) or [""]
    for verb, group, resource, name in product(sorted(rule.verbs), sorted(rule.groups), sorted(rule.resources), names):
        yield Rule(frozenset({verb}), frozenset({group}), frozenset({resource}), frozenset({name} if name else ()))
    for verb, path in product(sorted(rule.verbs), rule.paths):
        yield Rule(frozenset({verb}), paths=(path,))


def _covers(own: Rule, single: Rule) -> bool:
    if not ("*" in own.verbs or single.verbs <= own.verbs):
        return False
    if single.paths:
        return any(_path_covers(pattern, single.paths[0]) for pattern in own.paths)
    (resource,) = single.resources
    has = resource in own.resources or "*" in own.resources
    has = has or ("/" in resource and f"*/{resource.partition('/')[2]}" in own.resources)
    groups = "*" in own.groups or single.groups <= own.groups
    return has and groups and (not own.names or (bool(single.names) and single.names <= own.names))


def _path_covers(pattern: str, path: str) -> bool:
    return _path_matches(pattern, path) if not path.endswith("*") else pattern == "*" or (
        pattern.endswith("*") and path[:-1].startswith(pattern[:-1]))


def words(rule: Rule) -> str:
    """A rule in the form the original's refusals have."""
    parts = [("APIGroups", rule.groups), ("Resources", rule.resources), ("ResourceNames", rule.names),
             ("NonResourceURLs", rule.paths), ("Verbs", rule.verbs)]
    return "{" + ", ".join(f"{name}:[{' '.join(f'{value!r}' for value in sorted(values))}]".replace("'", '"')
                           for name, values in parts if values) + "}"


def aggregated(cluster_role: Object, others: Iterable[Object]) -> list[Object] | None:
    """The rules an aggregating ClusterRole should have; None for one that does not aggregate."""
    selectors = (cluster_role.get("aggregationRule") or {}).get("clusterRoleSelectors") or []
    if not selectors:
        return None
    found: list[Object] = []
    for role in sorted(others, key=name_of):
        labels = role["metadata"].get("labels") or {}
        if name_of(role) != name_of(cluster_role) and any(selects(each, labels) for each in selectors):
            found += [rule for rule in role.get("rules") or [] if rule not in found]
    return found


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector matches; an empty one matches all."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or ():
        key, operator, values = term.get("key", ""), term.get("operator"), term.get("values") or []
        good = {"In": labels.get(key) in values, "NotIn": labels.get(key) not in values, "Exists": key in labels,
                "DoesNotExist": key not in labels}.get(str(operator), False)
        if not good or (operator == "In" and key not in labels):
            return False
    return True


def account_of(user_name: str) -> tuple[str, str] | None:
    """Namespace and name of the ServiceAccount a user name stands for."""
    if not user_name.startswith(ACCOUNT_PREFIX):
        return None
    namespace, _, name = user_name[len(ACCOUNT_PREFIX):].partition(":")
    return (namespace, name) if namespace and name else None
