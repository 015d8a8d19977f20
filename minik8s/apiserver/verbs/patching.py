"""A patch as a function of the object it changes: JSON, merge or strategic merge patch by Content-Type; and what a server-side
apply has in its body.

Must not know: HTTP's machinery, storage. Read next: `schema/patch.py`, `schema/strategic.py`, `fields/tracking.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from minik8s.apiserver import schema
from minik8s.apiserver.fields.ownership import APPLY as OPERATION
from minik8s.apiserver.fields.ownership import Who
from minik8s.apiserver.fields.tracking import check_manager, updater
from minik8s.apiserver.request.bodies import YAML, bounded, decode_json, twice
from minik8s.apiserver.request.call import JSON, Call
from minik8s.apiserver.request.routes import truthy
from minik8s.apiserver.request.status import Cause, Refused, bad_request, invalid
from minik8s.apiserver.request.yamltext import read_yaml
from minik8s.apiserver.schema.patch import TooLarge
from minik8s.apiserver.schema.validation import FieldError
from nodecore.errors import Invalid

Object = dict[str, Any]
Change = Callable[[Object], Object]
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
JSON_PATCH, APPLY = "application/json-patch+json", "application/apply-patch+yaml"
MOST_OPERATIONS = 10000
OPTIONS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}


def media_of(call: Call) -> str:
    """The kind of patch a body is."""
    return call.content.partition(";")[0].strip().lower()


def author(call: Call, sub: str = "") -> Who:
    """In whose name the call changes fields; refuses names, and a `force`, that do not belong there."""
    manager, options = call.query.get("fieldManager", ""), OPTIONS.get(call.verb, "PatchOptions")
    check_manager(manager, options)
    version = call.kind.resource.api_version
    if call.verb == "patch" and media_of(call) == APPLY:
        if not manager:
            raise invalid(options, "meta.k8s.io", "", [
                Cause("fieldManager", "Required value: is required for apply patch", "FieldValueRequired")])
        return Who(manager, OPERATION, version, sub)
    if call.query.get("force"):
        raise invalid(options, "meta.k8s.io", "", [
            Cause("force", "Forbidden: may not be specified for non-apply patch", "FieldValueForbidden")])
    return updater(manager, call.agent, version, sub)


def forced(call: Call) -> bool:
    """Whether an apply takes fields away from others."""
    return truthy(call.query.get("force", ""))


def doubled(call: Call, found: Any = None) -> list[FieldError]:
    """The fields that the body names twice, if anybody wants to know. `found`: the body, read already and not changed since."""
    if call.strictness == "Ignore":
        return []
    return twice(call.body, call.content, found)


def configuration(call: Call, gvk: tuple[str, str, str]) -> tuple[Object, list[FieldError]]:
    """The object in the body of a server-side apply, and what it names twice: JSON, which is YAML too, or YAML."""
    try:
        config = msgspec.json.decode(call.body)
        content = JSON
    except (msgspec.DecodeError, ValueError, RecursionError):
        config, _ = read_yaml(call.body)
        content = YAML
    bounded(config)
    found = [] if call.strictness == "Ignore" else twice(call.body, content)
    if not isinstance(config, dict) or not isinstance(config.get("metadata"), dict):
        raise bad_request("error decoding YAML: the body is not an object with metadata")
    if found and call.strictness == "Strict":
        raise bad_request("error strict decoding YAML: " + ", ".join(each.message for each in found))
    group, version, kind = gvk
    expected = f"{group}/{version}" if group else version
    for name in ("kind", "apiVersion"):
        if not config.get(name):
            raise bad_request(f"Object '{name[0].upper()}{name[1:]}' is missing in the body of the apply patch")
    if (config["apiVersion"], config["kind"]) != (expected, kind):
        said = f"{str(config['apiVersion'])[:100]}, Kind={str(config['kind'])[:100]}"
        raise bad_request(f"Incorrect version specified in apply patch. Specified patch version: {said}, expected: "
                          f"{expected}, Kind={kind}")
    if config["metadata"].get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    return config, found


def patched(call: Call, gvk: tuple[str, str, str] | None = None) -> Change:
    """What the call's patch makes of an object of its kind (or of `gvk`)."""
    media = media_of(call)
    known = (JSON_PATCH, MERGE, *(() if call.kind.custom else (STRATEGIC,)))
    if media not in known:
        words = ", ".join((*known, APPLY))
        raise Refused(415, f"the body of the request was in an unknown format - accepted media types include: {words}")
    patch = decode_json(call.body)
    if isinstance(patch, list) != (media == JSON_PATCH) or not isinstance(patch, list | dict):
        raise bad_request(f"the body is not a patch of the kind {media}")
    if media == JSON_PATCH and len(patch) > MOST_OPERATIONS:
        raise Refused(413, f"the JSON patch has more than {MOST_OPERATIONS} operations")
    return lambda obj: _applied(media, obj, patch, gvk or call.kind.gvk)


def _applied(media: str, obj: Object, patch: Any, gvk: tuple[str, str, str]) -> Object:
    try:
        if media == JSON_PATCH:
            found = schema.json_patch(obj, patch)
        elif media == MERGE:
            found = schema.merge_patch(obj, patch)
        else:
            found = schema.strategic_merge(obj, patch, gvk)
    except TooLarge as error:
        raise Refused(413, str(error)) from None
    except Invalid as error:
        raise Refused(422 if media == JSON_PATCH else 400, str(error)) from None
    except RecursionError:
        raise bad_request("the patch nests too deep") from None
    if not isinstance(found, dict):
        raise Refused(422, "the patch leaves no object")
    bounded(found)
    return found
