"""What the API's answers mean: bytes as the objects asked for, a bad status as one of our errors.

Pure. Must not know: how an answer came. Read next: `nodecore/kube/client.py`, `nodecore/kube/reading.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nodecore import errors

BY_STATUS = {
    400: errors.Invalid, 401: errors.Denied, 403: errors.Denied, 404: errors.NotFound, 409: errors.Conflict,
    410: errors.Expired, 415: errors.Invalid, 422: errors.Invalid, 429: errors.Busy,
}


class Status(msgspec.Struct):
    """The API's own account of what went wrong (meta/v1 Status)."""

    message: str = ""
    reason: str = ""
    code: int = 0


def error_of(code: int, body: bytes) -> errors.Fault:
    """Ours, for a status of 400 and more."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except msgspec.DecodeError:
        status = Status(message=body[:200].decode(errors="replace"))
    kind = errors.AlreadyExists if status.reason == "AlreadyExists" else BY_STATUS.get(code, errors.Unreachable)
    return kind(f"API: {status.message or status.reason or code}")


def decoded(data: bytes | msgspec.Raw, into: Any) -> Any:
    """What the bytes say, as that type."""
    try:
        return msgspec.json.decode(data, type=into)
    except msgspec.DecodeError as error:
        raise errors.Invalid(f"the API answered with something unexpected: {error}") from None
