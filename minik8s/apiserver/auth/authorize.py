"""Who may do what: one table by user and group. (Roles and bindings are for a later issue.)

    system:masters everything | nodes, the proxy, the scheduler, the controllers what their work needs
    everybody known: discovery and questions about oneself | everybody: health and version

Pure. Must not know: how somebody was recognised. Read next: `authenticate.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version"})
KNOWN_PATHS = ("/api", "/apis", "/openapi", "/openid")
READ = frozenset({"get", "list", "watch"})
WRITE = frozenset({"create", "update", "patch", "delete"})
ALL = READ | WRITE | {"deletecollection"}
ANONYMOUS, UNAUTHENTICATED, AUTHENTICATED = "system:anonymous", "system:unauthenticated", "system:authenticated"


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether we know who it is."""
        return UNAUTHENTICATED not in self.groups


@dataclass(frozen=True, slots=True)
class Rule:
    """These verbs on these resources (`pods`, `pods/status`, `*`)."""

    verbs: frozenset[str]
    resources: frozenset[str]


def _rule(verbs: Iterable[str], *resources: str) -> Rule:
    return Rule(frozenset(verbs), frozenset(resources))


EVENTS = _rule(WRITE, "events")
LEASES = _rule(READ | WRITE, "leases")
RULES: dict[str, tuple[Rule, ...]] = {
    "system:masters": (_rule(ALL, "*"),),
    "system:nodes": (
        _rule(READ, "pods", "nodes", "services", "endpoints", "endpointslices", "configmaps", "secrets", "serviceaccounts",
              "namespaces"),
        _rule(WRITE, "nodes", "nodes/status", "pods/status"), _rule({"create", "delete"}, "pods", "pods/eviction"),
        _rule({"create"}, "subjectaccessreviews", "serviceaccounts/token"), EVENTS, LEASES,
    ),
    "system:node-proxier": (_rule(READ, "services", "endpoints", "endpointslices", "nodes", "namespaces"), EVENTS),
    "system:kube-controller-manager": (_rule(ALL, "*"),),
    "system:kube-scheduler": (
        _rule(READ, "*"), _rule({"create"}, "pods/binding", "bindings", "pods/eviction"),
        _rule({"update", "patch"}, "pods/status"), _rule({"delete"}, "pods"), EVENTS, LEASES,
    ),
    AUTHENTICATED: (_rule({"create"}, "selfsubjectreviews", "selfsubjectaccessreviews"),),
}
ALIASES = {"system:kube-proxy": "system:node-proxier"}


def may(user: User, verb: str, resource: str) -> bool:
    """Whether a user may do this to a resource (`pods/log` for a subresource)."""
    names = {ALIASES.get(name, name) for name in (user.name, *user.groups)}
    return any(verb in rule.verbs and (resource in rule.resources or "*" in rule.resources)
               for name in names for rule in RULES.get(name, ()))


def may_path(user: User, path: str) -> bool:
    """Whether a user may read a path that is no resource."""
    if any(path == each or path.startswith(each + "/") for each in OPEN_PATHS):
        return True
    if not user.known:
        return False
    return "system:masters" in user.groups or any(path == each or path.startswith(each + "/") for each in KNOWN_PATHS)


def own_node_only(user: User, plural: str, name: str, verb: str) -> bool:
    """Whether a node is about to change another node."""
    return plural == "nodes" and verb in WRITE and "system:nodes" in user.groups and bool(name) \
        and "system:masters" not in user.groups and user.name != f"system:node:{name}"
