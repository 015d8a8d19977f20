"""The way over from `kubectl apply` on the client: what its annotation says was applied may be taken without a conflict.

Only for the manager `kubectl`, as in the original. Pure. Must not know: HTTP, storage. Read next: `ownership.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from minik8s.apiserver.fields.change import compare, named
from minik8s.apiserver.fields.forms import Form
from minik8s.apiserver.fields.ownership import Contested, Owners, Who, applied
from minik8s.apiserver.fields.paths import Tree, difference, intersection, members, union
from nodecore.errors import Invalid

Object = dict[str, Any]
ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
KUBECTL = "kubectl"
LARGEST = 262144


def applied_as_kubectl(form: Form, live: Object, config: Object, owners: Owners, who: Who, now: str, *,
                       force: bool = False) -> tuple[Object, Owners]:
    """A server-side apply; conflicts over what the client-side apply set, and nobody changed since, do not count."""
    try:
        found, left = applied(form, live, config, owners, who, now, force=force)
    except Contested as contested:
        allowed = last_applied(form, live) if who.manager == KUBECTL else {}
        still = [(other, path) for other, path in contested.fields if not _has(allowed, path)]
        if still:
            raise Contested(still) from None
        found, left = applied(form, live, config, owners, who, now, force=True)
    if who.manager == KUBECTL and ANNOTATION in _annotations(live):
        found = _told(found, config)
    return found, left


def last_applied(form: Form, live: Object) -> Tree:
    """The fields of the annotation's configuration that the object still has as it says."""
    try:
        config = msgspec.json.decode(_annotations(live).get(ANNOTATION) or "{}")
        if not isinstance(config, dict) or config.get("apiVersion") != live.get("apiVersion"):
            return {}
        fields = named(form, config)
    except (msgspec.DecodeError, RecursionError, Invalid):
        return {}
    touched, removed = compare(form, config, live)
    return difference(fields, union(touched, removed))


def _has(tree: Tree, path: tuple[str, ...]) -> bool:
    wanted: Tree = {}
    for element in reversed(path):
        wanted = {element: wanted}
    return any(members(intersection(tree, wanted)))


def _annotations(obj: Object) -> Object:
    found = (obj.get("metadata") or {}).get("annotations")
    return found if isinstance(found, dict) else {}


def _told(obj: Object, config: Object) -> Object:
    """The object with its annotation saying what was applied now, so that a later client-side apply knows."""
    meta = dict(config.get("metadata") or {})
    kept = {name: value for name, value in _annotations(config).items() if name != ANNOTATION}
    meta["annotations"] = kept
    body = msgspec.json.encode({**config, "metadata": meta}).decode() + "\n"
    own = dict(obj["metadata"])
    own["annotations"] = {**_annotations(obj), ANNOTATION: body}
    if len(body) > LARGEST:
        del own["annotations"][ANNOTATION]
    return {**obj, "metadata": own}
