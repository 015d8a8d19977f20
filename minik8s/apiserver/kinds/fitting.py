"""Does a sent object belong here and fit its kind's schema: the checks before its content is looked at.

Must not know: HTTP, storage. Read next: `validate.py`, for what it means.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from minik8s.apiserver import schema
from minik8s.apiserver.kinds import custom_fitting
from minik8s.apiserver.kinds.catalogue import Kind
from minik8s.apiserver.request.call import Call
from minik8s.apiserver.request.status import Cause, Refused, bad_request, invalid
from minik8s.apiserver.schema.validation import AMOUNT, MOST, NULL, TYPE, FieldError

Object = dict[str, Any]
APPLIED = "application/apply-patch"


def belongs(kind: Kind, obj: Object) -> None:
    """Refuse an object of another kind, or one without sound metadata; fill in kind and apiVersion."""
    resource = kind.resource
    said = (obj.setdefault("kind", resource.kind), obj.setdefault("apiVersion", resource.api_version))
    if said != (resource.kind, resource.api_version):
        sent = f"{str(obj['apiVersion'])[:100]}, Kind={str(obj['kind'])[:100]}"
        raise bad_request(f"{sent} in the body does not match the expected {resource.api_version}, Kind={resource.kind}")
    if obj.get("metadata") is None:
        obj["metadata"] = {}
    if not isinstance(obj["metadata"], dict):
        raise bad_request("metadata is not an object")


def places(call: Call, obj: Object) -> None:
    """Refuse an object whose name or namespace is not the URL's."""
    meta, target = obj["metadata"], call.target
    if meta.get("namespace") and call.kind.resource.namespaced and meta["namespace"] != target.namespace:
        raise bad_request(f"the namespace of the provided object does not match the namespace sent on the request "
                          f"({str(meta['namespace'])[:100]} is not {target.namespace})")
    if target.name and meta.get("name") and meta["name"] != target.name:
        sent = str(meta["name"])[:100]
        raise bad_request(f"the name of the object ({sent}) does not match the name on the URL ({target.name})")
    if target.name and not meta.get("name"):
        meta["name"] = target.name


def _patched_wrongly(obj: Object, message: str) -> Refused:
    reason = message.partition(": ")[2]
    text = f"Invalid value: {json.dumps(json.dumps(obj))[:2000]}: {reason}"
    cause = {"reason": "FieldValueInvalid", "message": text, "field": "patch"}
    return Refused(422, f' "" is invalid: patch: {text}', details={"causes": [cause]})


def _untyped(call: Call, obj: Object, wrong: FieldError) -> str:
    """What is said of a configuration that is applied and has a value of the wrong type."""
    resource = call.kind.resource
    place = f"{call.target.namespace}/{obj['metadata'].get('name', '')}; {resource.api_version}, Kind={resource.kind}"
    got, _, rest = wrong.message.removeprefix("json: cannot unmarshal ").partition(" into ")
    return f"failed to create typed patch object ({place}): .{wrong.field}: expected {rest.rpartition(' of type ')[2]}, got {got}"


def _misfits(call: Call, obj: Object) -> list[FieldError]:
    """All that does not fit; of very many unknown fields only the first ones, but then whatever else is wrong."""
    gvk = call.kind.gvk
    found = schema.validate(gvk, obj)
    if any(each.kind in (NULL, AMOUNT) for each in found):
        schema.settle(gvk, obj)
        found = schema.validate(gvk, obj)
    if len(found) < MOST or call.strictness == "Strict":
        return found
    schema.prune(gvk, obj)
    return [each for each in found if each.kind == "unknown"] + schema.validate(gvk, obj)


def fits(call: Call, obj: Object, *, twice: Sequence[FieldError] = ()) -> None:
    """Hold the object to its schema: wrong types and (if strict) unknown fields 400 (422 in what a patch makes), missing 422.

    Unknown fields that are not refused are dropped. `twice` are the fields that the body names twice.
    """
    if call.kind.custom:
        custom_fitting.fits(call, obj, twice)
        return
    mode, gvk = call.strictness, call.kind.gvk
    found = [*_misfits(call, obj), *twice]
    message = schema.refusal(gvk, found, strict=mode == "Strict")
    wrong = next((each for each in found if each.kind == TYPE), None)
    if wrong and call.verb == "patch" and call.content.startswith(APPLIED):
        raise bad_request(_untyped(call, obj, wrong))
    if message:
        raise _patched_wrongly(obj, message) if call.verb == "patch" else bad_request(message)
    if any(each.kind == "unknown" for each in found):
        schema.prune(gvk, obj)
    missing = [Cause(each.field, each.message.removeprefix(f"{each.field}: "), "FieldValueRequired")
               for each in found if each.kind == "required"]
    if missing:
        raise invalid(call.kind.resource.kind, call.kind.resource.group, str(obj["metadata"].get("name", "")), missing)
    if mode == "Warn":
        call.warnings[:] = list(dict.fromkeys(each.message for each in found if each.kind in ("unknown", "duplicate")))
