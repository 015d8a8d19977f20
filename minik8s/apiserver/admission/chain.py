"""The plugins in their order, and what the writer calls: complete a new object, check a write.

    shape   every plugin in turn may complete a new object          before defaults and validation
    check   every plugin in turn may refuse a write                 after them, on what would be stored

Must not know: HTTP. Read next: `asked.py`, then any plugin.
"""

from __future__ import annotations

from typing import Any

from minik8s.apiserver.admission.accounts import ServiceAccounts
from minik8s.apiserver.admission.asked import CREATE, DELETE, UPDATE, Asked, Plugin, every
from minik8s.apiserver.admission.certificates import CertificateRequests
from minik8s.apiserver.admission.escalation import Escalation
from minik8s.apiserver.admission.limits import LimitRanger
from minik8s.apiserver.admission.noderestriction import NodeRestriction
from minik8s.apiserver.admission.podsecurity import PodSecurity
from minik8s.apiserver.admission.priority import Priority
from minik8s.apiserver.admission.quota import Quota
from minik8s.apiserver.admission.tolerations import DefaultTolerationSeconds
from minik8s.apiserver.admission.webhook_rules import MUTATING, VALIDATING, WebhookConfigurations, hook_of_rules
from minik8s.apiserver.admission.webhooks import Webhooks
from minik8s.apiserver.auth.access import Access
from minik8s.apiserver.auth.authorize import Attributes
from minik8s.apiserver.auth.questions import forbidden
from minik8s.apiserver.cluster import Cluster
from minik8s.apiserver.kinds import validate
from minik8s.apiserver.kinds.catalogue import BY_PLURAL, Kind
from minik8s.apiserver.request.call import Call

Object = dict[str, Any]


class Chain:
    """All plugins over one cluster."""

    def __init__(self, cluster: Cluster, access: Access) -> None:
        self._cluster, self._access, self.quota, self._webhooks = cluster, access, Quota(cluster), Webhooks(cluster)
        self._hooks = [cluster.cache(BY_PLURAL[plural]) for plural in (MUTATING, VALIDATING)]
        cluster.cache(BY_PLURAL["resourcequotas"])  # begun with the server, for readiness to wait for
        self.plugins: tuple[Plugin, ...] = (
            LimitRanger(cluster), ServiceAccounts(cluster), NodeRestriction(), PodSecurity(cluster), Priority(cluster),
            DefaultTolerationSeconds(), Escalation(access), CertificateRequests(access),
            WebhookConfigurations(), self.quota,
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
        await self._hooks_known()
        await self._webhooks.mutate(asked)

    async def _hooks_known(self) -> None:
        for cache in self._hooks:
            if not cache.synced:
                await cache.ready()

    async def check_new(self, call: Call, kind: Kind, obj: Object) -> None:
        """Refuse an object that may not be created."""
        asked = _asked(call, kind, CREATE, obj, {})
        await self._webhooks.validate(asked)
        self._check(asked)

    def check_change(self, call: Call, kind: Kind, old: Object, new: Object) -> None:
        """Refuse a change that may not be made."""
        self._check(_asked(call, kind, UPDATE, new, old))

    async def is_asked_about(self, call: Call, kind: Kind, operation: str) -> bool:
        """Whether webhooks may have a say in a change or deletion: a look at the rules only, as the object is not known yet."""
        await self._hooks_known()
        asked = _asked(call, kind, operation, {}, {})
        return any(hook_of_rules(hook, asked) for plural in (MUTATING, VALIDATING)
                   for each in every(self._cluster, plural) for hook in each.get("webhooks") or ())

    async def ask_about(self, call: Call, kind: Kind, old: Object, new: Object) -> Object:
        """What the webhooks make of a change (or, with nothing new, say of a deletion)."""
        asked = _asked(call, kind, UPDATE if new else DELETE, new, old)
        if new and await self._webhooks.mutate(asked):
            if call.target.subresource != "status":
                validate.check_change(kind, old, asked.obj, sub=call.target.subresource)
            self._check(asked)
        await self._webhooks.validate(asked)
        return asked.obj

    def _check(self, asked: Asked) -> None:
        for plugin in self.plugins:
            if plugin.concerns(asked):
                plugin.check(asked)


def _asked(call: Call, kind: Kind, operation: str, obj: Object, old: Object) -> Asked:
    meta = obj.get("metadata") or old.get("metadata") or {}
    target = call.target
    return Asked(kind, operation, call.user, target.namespace, str(meta.get("name") or ""), target.subresource, obj, old,
                 call.dry, call.warnings)
