"""A patch as a function of the object it changes: JSON patch, merge patch or strategic merge patch by Content-Type.

Must not know: HTTP's machinery, storage. Read next: `schema/patch.py`, `schema/strategic.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minik8s.apiserver import schema
from minik8s.apiserver.request.bodies import bounded, decode_json
from minik8s.apiserver.request.call import Call
from minik8s.apiserver.request.status import Refused, bad_request
from nodecore.errors import Invalid

Object = dict[str, Any]
Change = Callable[[Object], Object]
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
JSON_PATCH, APPLY = "application/json-patch+json", "application/apply-patch+yaml"
MOST_OPERATIONS = 10000


def patched(call: Call, gvk: tuple[str, str, str] | None = None) -> Change:
    """What the call's patch makes of an object of its kind (or of `gvk`)."""
    media = call.content.partition(";")[0].strip().lower()
    if media == APPLY:
        raise Refused(415, "server-side apply (application/apply-patch+yaml) is not supported by this server yet; "
                           "use client-side apply")
    if media not in (MERGE, STRATEGIC, JSON_PATCH):
        raise Refused(415, f"the body of the request was in an unknown format - accepted media types include: {JSON_PATCH}, "
                           f"{MERGE}, {STRATEGIC}")
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
    except Invalid as error:
        raise Refused(422 if media == JSON_PATCH else 400, str(error)) from None
    if not isinstance(found, dict):
        raise Refused(422, "the patch leaves no object")
    bounded(found)
    return found
