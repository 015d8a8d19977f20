"""What the verbs ask of this room: keep `managedFields` right over a write, or carry out a server-side apply.

    track(kind, old, new, sent, who, now)      after a create, PUT or patch; `sent` is what its author put into managedFields
    apply(kind, live, config, who, now)        the object a server-side apply makes
    settle(old, new, sent)                     after it: nothing is written if nothing but times would change

Must not know: HTTP, storage. Read next: `ownership.py`; `verbs/writing.py`, which calls this.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from minik8s.apiserver.fields import clientside, ownership
from minik8s.apiserver.fields.forms import SKIP, Form, Forms
from minik8s.apiserver.fields.ownership import Contested, Owners, Who, decode, decode_foreign, encode, owner_text
from minik8s.apiserver.fields.paths import text
from minik8s.apiserver.kinds.catalogue import Kind
from minik8s.apiserver.request.status import Cause, Refused, bad_request, invalid
from minik8s.apiserver.schema.cache import shapes
from nodecore.errors import Invalid

Object = dict[str, Any]
UNSAID: Any = object()
LONGEST_MANAGER, LONGEST_AGENT = 128, 1024
MOST_CUSTOM = 1000
UNKNOWN = "unknown"
BEFORE = "before-first-apply"
TOP = ("spec", "status")
HEAD = ("apiVersion", "kind")
FRESH: dict[str, Object] = {
    name: {"spec": {"template": {"metadata": {}, "spec": {"containers": []}}, "strategy": {}, "updateStrategy": {}}}
    for name in ("Deployment", "ReplicaSet", "DaemonSet", "StatefulSet", "ReplicationController", "Job")
} | {"Pod": {"spec": {"containers": []}}, "CronJob": {"spec": {"jobTemplate": {"metadata": {}, "spec": {
    "template": {"metadata": {}, "spec": {"containers": []}}}}}}}


class _Known:
    """The forms made so far, and the shapes they were made from."""

    shapes: Any = None
    forms: Forms
    custom: dict[int, tuple[Any, dict[tuple[str, ...], Form]]]


def form_of(kind: Kind, sub: str = "") -> Form:
    """The form of a kind's objects, as a writer of the object or of one of its subresources sees them."""
    found = shapes()
    if _Known.shapes is not found:
        _Known.shapes, _Known.forms, _Known.custom = found, Forms(found), {}
    ignored = ("spec",) if sub == "status" else ("status",) if not sub and kind.has_status else ()
    custom = getattr(kind, "custom", None)
    return _Known.forms.of_kind(kind.gvk, ignored) if custom is None else _custom(custom, ignored)


def _custom(custom: Any, ignored: tuple[str, ...]) -> Form:
    kept = _Known.custom
    if id(custom) not in kept or kept[id(custom)][0] is not custom:
        if len(kept) >= MOST_CUSTOM:
            kept.clear()
        kept[id(custom)] = (custom, {})
    made = kept[id(custom)][1]
    if ignored not in made:
        made[ignored] = _Known.forms.of_schema(custom.schema, ignored)
    return made[ignored]


def updater(manager: str, agent: str, api_version: str, sub: str = "") -> Who:
    """Who writes: the manager named, or else the first word of the User-Agent."""
    return Who(manager or _first_word(agent.partition("/")[0][:LONGEST_AGENT]), ownership.UPDATE, api_version, sub)


@lru_cache(256)
def _first_word(agent: str) -> str:
    first = "".join(letter for letter in agent if letter.isprintable())
    return first.encode()[:LONGEST_MANAGER].decode(errors="ignore") or UNKNOWN


def check_manager(manager: str, options: str) -> None:
    """Refuse a name of a manager that is too long or cannot be printed."""
    if len(manager.encode()) > LONGEST_MANAGER:
        cause = Cause("fieldManager", f"Too long: may not be more than {LONGEST_MANAGER} bytes", "FieldValueTooLong")
        raise invalid(options, "meta.k8s.io", "", [cause])
    if not manager.isprintable():
        cause = Cause("fieldManager", "Invalid value: should only contain printable characters")
        raise invalid(options, "meta.k8s.io", "", [cause])


def sent_of(obj: Object) -> Any:
    """What an object says of its managers, to be handed to `track`."""
    return obj["metadata"].get("managedFields", UNSAID)


def track(kind: Kind, old: Object | None, new: Object, sent: Any, who: Who, now: str) -> None:
    """Set `managedFields` of a new object (`old` is None) or a changed one."""
    sub = who.subresource
    owners = _owners(old, sent, foreign=not sub)
    if old is None:
        before: Object = {"metadata": {}, **{key: {} for key in TOP if key in new}, **FRESH.get(kind.resource.kind, {})}
    elif not owners:
        new["metadata"].pop("managedFields", None)
        return
    else:
        before = old if all(key in old for key in TOP) else {**{key: {} for key in TOP if key in new}, **old}
    found = ownership.updated(form_of(kind, sub), before, new, owners, who, now)
    put(new, found)


def put(obj: Object, owners: Owners) -> None:
    """Write the owners into an object."""
    if owners:
        obj["metadata"]["managedFields"] = encode(owners)
    else:
        obj["metadata"].pop("managedFields", None)


def settle(old: Object, new: Object, sent: Any) -> None:
    """Give an applied object its owners; as they were, times too, if nothing else differs now that the defaults are in."""
    before = old["metadata"].get("managedFields")
    if before is not None and sent is not UNSAID and list(map(_timeless, before)) == list(map(_timeless, sent)):
        new["metadata"]["managedFields"] = before
        if new == old:
            return
    if sent is UNSAID:
        new["metadata"].pop("managedFields", None)
    else:
        new["metadata"]["managedFields"] = sent


def _timeless(entry: Object) -> Object:
    return {name: value for name, value in entry.items() if name != "time"}


def _owners(old: Object | None, sent: Any, *, foreign: bool) -> Owners:
    """The owners a change starts from: those its author sent if they can be read and it may set them, else those there are."""
    live = old["metadata"].get("managedFields") if old else None
    if not foreign or sent is UNSAID or sent is None or sent == live:
        return decode(live)
    if sent in ([], [{}]):
        return {}
    try:
        return decode_foreign(sent) or decode(live)
    except Invalid:
        return decode(live)


def apply(kind: Kind, live: Object | None, config: Object, who: Who, now: str, *, force: bool) -> Object:
    """The object after a server-side apply (`live` is None: it was not there); a Conflict names every field."""
    form = form_of(kind, who.subresource)
    config = {name: value for name, value in config.items() if name in HEAD or form.fields.get(name) is not SKIP}
    there = live if live is not None else {"metadata": {}}
    owners = decode(there["metadata"].get("managedFields"))
    if live is not None and not owners:
        before = updater(BEFORE, "", config["apiVersion"])
        owners = ownership.updated(form, {"metadata": {}, **{key: {} for key in TOP if key in live}}, live, {}, before, now)
    try:
        made, owners = clientside.applied_as_kubectl(form, there, config, owners, who, now, force=force)
    except Contested as contested:
        raise refusal(contested) from None
    except Invalid as error:
        meta = config.get("metadata") or {}
        place = f"{meta.get('namespace') or there['metadata'].get('namespace', '')}/{meta.get('name', '')}"
        raise bad_request(f"failed to create typed patch object ({place}; {config.get('apiVersion')}, "
                          f"Kind={config.get('kind')}): {error}") from None
    made = {**made, "metadata": dict(made["metadata"])}
    put(made, owners)
    return made


def refusal(contested: Contested) -> Refused:
    """409 with a cause for each field."""
    causes = [{"reason": "FieldManagerConflict", "message": f"conflict with {owner_text(who)}", "field": text(path)}
              for who, path in contested.fields]
    return Refused(409, str(contested), details={"causes": causes})
