"""Nobody gives away more than they have: who writes a role or binds one must have all that is in it, or may `escalate`/`bind`.

Read next: `auth/rbac.py`.
"""

from __future__ import annotations

from minik8s.apiserver.admission.asked import Asked
from minik8s.apiserver.auth.access import Access
from minik8s.apiserver.auth.authorize import MASTERS, Attributes
from minik8s.apiserver.auth.rbac import GROUP, Rule, combinations, rules_of, uncovered, words
from minik8s.apiserver.request.status import not_found

ROLES = frozenset({"roles", "clusterroles"})
BINDINGS = frozenset({"rolebindings", "clusterrolebindings"})
SHOWN, MOST = 20, 20_000


class Escalation:
    """The plugin."""

    name = "RBACEscalation"
    needs: tuple[str, ...] = ()

    def __init__(self, access: Access) -> None:
        self._access = access

    def concerns(self, asked: Asked) -> bool:
        """Roles and bindings that are written."""
        return asked.kind.resource.group == GROUP and MASTERS not in asked.user.groups

    def shape(self, asked: Asked) -> None:
        """Nothing."""

    def check(self, asked: Asked) -> None:
        """Refuse rules or a binding that would give more than their author has."""
        if asked.plural in ROLES:
            changed = any(asked.obj.get(key) != asked.old.get(key) for key in ("rules", "aggregationRule"))
            if changed and not self._may(asked, "escalate", asked.plural, asked.name):
                self._covered(asked)
        elif any(asked.obj.get(key) != asked.old.get(key) for key in ("roleRef", "subjects")):
            ref = asked.obj.get("roleRef") or {}
            plural = "clusterroles" if ref.get("kind") == "ClusterRole" else "roles"
            if not self._may(asked, "bind", plural, str(ref.get("name", ""))):
                rules = self._access.index.referred(ref, asked.namespace)
                if rules is None:
                    raise not_found(plural, GROUP, str(ref.get("name", "")))
                self._refuse(asked, rules)

    def _may(self, asked: Asked, verb: str, plural: str, name: str) -> bool:
        return bool(self._access.allows(asked.user, Attributes(verb, GROUP, plural, asked.namespace, name)))

    def _covered(self, asked: Asked) -> None:
        if asked.obj.get("aggregationRule"):
            self._refuse(asked, rules_of({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}))
        self._refuse(asked, rules_of(asked.obj))

    def _refuse(self, asked: Asked, wanted: tuple[Rule, ...]) -> None:
        if sum(map(combinations, wanted)) > MOST:
            raise asked.refuse(f"the rules permit more than {MOST} single things: too many to hold against what their author may")
        missing = uncovered(self._access.index.rules(asked.user, asked.namespace), wanted)
        if missing:
            user = f'user "{asked.user.name}" (groups={list(asked.user.groups)!r})'.replace("'", '"')
            listed = "\n".join(words(rule) for rule in missing[:SHOWN])
            raise asked.refuse(f"{user} is attempting to grant RBAC permissions not currently held:\n{listed}")
