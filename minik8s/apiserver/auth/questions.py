"""A request as a question to authorization, and the refusal in the original's words. Pure.

Anonymous requests may ask for health, the version and the cluster's public face only: for all else they are told to say
who they are, whatever roles were bound to them. Read next: `access.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from minik8s.apiserver.auth.authorize import Attributes, User
from minik8s.apiserver.request.routes import Target
from minik8s.apiserver.request.selectors import demanded
from minik8s.apiserver.request.status import Refused, named

OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version", "/version/"})
PUBLIC = ("kube-public", "cluster-info")
SELECTING = frozenset({"list", "watch", "deletecollection"})


def attributes(verb: str, target: Target, query: Mapping[str, str]) -> Attributes:
    """What a request for a resource asks for."""
    resource = f"{target.plural}/{target.subresource}" if target.subresource else target.plural
    name = target.name
    fields = query.get("fieldSelector", "") if verb in SELECTING else ""
    if fields and not name:
        name = demanded(fields).get("metadata.name", "")
    namespace = target.name if target.plural == "namespaces" and not target.group else target.namespace
    return Attributes(verb, target.group, resource, namespace, name, "", fields)


def open_to_all(asked: Attributes) -> bool:
    """Whether somebody unknown may ask this at all."""
    if asked.path:
        return asked.path in OPEN_PATHS
    return asked.verb == "get" and asked.resource == "configmaps" and (asked.namespace, asked.name) == PUBLIC


def forbidden(user: User, asked: Attributes, why: str = "") -> Refused:
    """The refusal: 401 for somebody unknown, else 403."""
    if not user.known and not open_to_all(asked):
        return Refused(401, "Unauthorized")
    if asked.path:
        return Refused(403, f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path[:200]}"')
    inside = asked.namespace and asked.resource != "namespaces"
    where = f' in the namespace "{asked.namespace}"' if inside else " at the cluster scope"
    plural = asked.resource.partition("/")[0]
    about = f' "{asked.name}"' if asked.name else ""
    what = f'User "{user.name}" cannot {asked.verb or "use"} resource "{asked.resource}" in API group "{asked.group}"{where}'
    details = {key: value for key, value in (("name", asked.name), ("group", asked.group), ("kind", plural)) if value}
    return Refused(403, f"{named(plural, asked.group)}{about} is forbidden: {what}{f': {why}' if why else ''}", details=details)
