"""Does a custom object fit the schema of its definition: unknown fields dropped and told, defaults, every wrong value (422).

Must not know: HTTP, storage. Read next: `structural.py`, `fitting.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minik8s.apiserver import schema
from minik8s.apiserver.kinds import structural
from minik8s.apiserver.request.call import Call
from minik8s.apiserver.request.status import bad_request, invalid
from minik8s.apiserver.schema.validation import FieldError

Object = dict[str, Any]


def fits(call: Call, obj: Object, twice: Sequence[FieldError]) -> None:
    """Hold a custom object to its schema."""
    kind, mode = call.kind, call.strictness
    assert kind.custom is not None
    unknown = [each for each in schema.validate(kind.gvk, obj) if each.kind == "unknown"]
    loose = [each.message for each in (*unknown, *twice)]
    if loose and mode == "Strict":
        raise bad_request("strict decoding error: " + ", ".join(loose))
    if mode == "Warn":
        call.warnings[:] = list(dict.fromkeys(loose))
    if unknown:
        schema.prune(kind.gvk, obj)
    body = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
    structural.default(kind.custom.schema, body)
    obj.update(body)
    checked = {key: value for key, value in body.items() if key != "status"} if _status_is_elsewhere(call) else body
    found = list(structural.validate(kind.custom.schema, {"apiVersion": "", "kind": "", "metadata": {}, **checked}))
    if found:
        raise invalid(kind.resource.kind, kind.resource.group, str(obj["metadata"].get("name", "")), found)


def _status_is_elsewhere(call: Call) -> bool:
    """What is sent as status counts only where status is written."""
    return call.kind.has_status and call.target.subresource != "status"
