"""The nouns of authorization: who asks (`User`), for what (`Attributes`).

Pure. Must not know: how somebody was recognised, what rules there are. Read next: `rbac.py`, `access.py`.
"""

from __future__ import annotations

from typing import NamedTuple

READ = frozenset({"get", "list", "watch"})
MASTERS, NODES = "system:masters", "system:nodes"
ANONYMOUS, UNAUTHENTICATED, AUTHENTICATED = "system:anonymous", "system:unauthenticated", "system:authenticated"
NODE_PREFIX = "system:node:"
ACCOUNT_PREFIX = "system:serviceaccount:"
Extra = tuple[tuple[str, tuple[str, ...]], ...]


class User(NamedTuple):
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Extra = ()

    @property
    def known(self) -> bool:
        """Whether we know who it is."""
        return UNAUTHENTICATED not in self.groups

    @property
    def node(self) -> str:
        """The node this is the kubelet of; empty for everybody else."""
        if NODES in self.groups and self.name.startswith(NODE_PREFIX):
            return self.name[len(NODE_PREFIX):]
        return ""

    def info(self) -> dict[str, object]:
        """As `UserInfo` of authentication.k8s.io."""
        found: dict[str, object] = {"username": self.name}
        if self.uid:
            found["uid"] = self.uid
        found["groups"] = list(self.groups)
        if self.extra:
            found["extra"] = {key: list(values) for key, values in self.extra}
        return found


class Attributes(NamedTuple):
    """What is asked for: a verb on a resource (`pods/log` for a subresource), or on a path that is none."""

    verb: str
    group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    fields: str = ""  # a list's field selector


def account(namespace: str, name: str) -> str:
    """The user name of a ServiceAccount."""
    return f"{ACCOUNT_PREFIX}{namespace}:{name}"


def account_groups(namespace: str) -> tuple[str, ...]:
    """The groups every ServiceAccount of a namespace is in."""
    return ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
