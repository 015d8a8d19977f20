"""The plugins in their order, and what the writer calls: complete a new object, check a write.

    shape   every plugin in turn may complete a new object          before defaults and validation
    check   every plugin in turn may refuse a write                 after them, on what would be stored

Must not know: HTTP. Read next: `asked.py`, then any plugin.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.admission.accounts import ServiceAccounts
from minik8s.apiserver.admission.asked import CREATE, UPDATE, Asked, Plugin
from minik8s.apiserver.admission.certificates import CertificateRequests
from minik8s.apiserver.admission.escalation import Escalation
from minik8s.apiserver.admission.limits import LimitRanger
from minik8s.apiserver.admission.noderestriction import NodeRestriction
from minik8s.apiserver.admission.podsecurity import PodSecurity
from minik8s.apiserver.admission.priority import Priority
from minik8s.apiserver.admission.quota import Quota
from minik8s.apiserver.admission.tolerations import DefaultTolerationSeconds
from minik8s.apiserver.auth.access import Access
from minik8s.apiserver.auth.authorize import Attributes
from minik8s.apiserver.auth.questions import forbidden
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds.catalogue import BY_PLURAL, Kind
from minik8s.apiserver.request.call import Call

Object = dict[str, Any]


class Chain:
    """All plugins over one cluster."""

    def __init__(self, cluster: Cluster, access: Access) -> None:
        self._cluster, self._access, self.quota = cluster, access, Quota(cluster)
        self.plugins: tuple[Plugin, ...] = (
            LimitRanger(cluster), ServiceAccounts(cluster), NodeRestriction(), PodSecurity(cluster), Priority(cluster),
            DefaultTolerationSeconds(), Escalation(access), CertificateRequests(access), self.quota,
        )

    async def shape(self, call: Call, kind: Kind, obj: Object) -> None:
        """Complete an object that is about to be created; by an apply, only for those who may create as well as patch."""
        if call.verb == "patch":
            resource = kind.resource
            right = Attributes("create", resource.group, resource.plural, call.target.namespace, call.target.name)
            if not self._access.allows(call.user, right):
                raise forbidden(call.user, right)
        asked = _asked(call, kind, CREATE, obj, {})
        for plugin in self.plugins:
            if plugin.concerns(asked):
                for plural in plugin.needs:
                    await self._cluster.cache(BY_PLURAL[plural]).ready()
                if isinstance(plugin, ServiceAccounts):
                    await plugin.wait_for(asked)
                plugin.shape(asked)

    def check_new(self, call: Call, kind: Kind, obj: Object) -> None:
        """Refuse an object that may not be created."""
        self._check(_asked(call, kind, CREATE, obj, {}))

    def check_change(self, call: Call, kind: Kind, old: Object, new: Object) -> None:
        """Refuse a change that may not be made."""
        self._check(_asked(call, kind, UPDATE, new, old))

    def _check(self, asked: Asked) -> None:
        for plugin in self.plugins:
            if plugin.concerns(asked):
                plugin.check(asked)


def _asked(call: Call, kind: Kind, operation: str, obj: Object, old: Object) -> Asked:
    meta = obj.get("metadata") or old.get("metadata") or {}
    target = call.target
    return Asked(kind, operation, call.user, target.namespace, str(meta.get("name") or ""), target.subresource, obj, old,
                 call.dry, call.warnings)
