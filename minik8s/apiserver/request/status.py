"""Refusals and what they look like: every error becomes one `Status` body (meta/v1), as the original words it.

Pure. `Refused` is raised anywhere below the rim; `of` translates the house's own errors.
Must not know: HTTP. Read next: `handler.py`, the rim that answers with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nodecore import errors

Body = dict[str, Any]
REASONS = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 406: "NotAcceptable",
    409: "Conflict", 410: "Expired", 413: "RequestEntityTooLarge", 415: "UnsupportedMediaType", 422: "Invalid",
    429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """One wrong field: `reason` is a CauseType such as FieldValueInvalid."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


class Refused(errors.Fault):
    """A request that is answered with a Status of failure."""

    def __init__(self, code: int, message: str, *, reason: str = "", details: Body | None = None,
                 metadata: Body | None = None) -> None:
        super().__init__(message)
        self.metadata = metadata or {}
        self.code, self.reason, self.details = code, reason or REASONS.get(code, ""), details or {}

    def body(self) -> Body:
        """The Status object."""
        status: Body = {"kind": "Status", "apiVersion": "v1", "metadata": self.metadata, "status": "Failure",
                        "message": str(self)}
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = self.details
        return {**status, "code": self.code}


def named(plural: str, group: str) -> str:
    """`pods`, or `deployments.apps`."""
    return f"{plural}.{group}" if group else plural


def _details(name: str, group: str, plural: str) -> Body:
    found = {"name": name, "group": group, "kind": plural}
    return {key: value for key, value in found.items() if value}


def not_found(plural: str, group: str, name: str) -> Refused:
    """There is no such object."""
    return Refused(404, f'{named(plural, group)} "{name}" not found', details=_details(name, group, plural))


def no_such_path(why: str = "") -> Refused:
    """There is no such URL."""
    return Refused(404, why or "the server could not find the requested resource", details={
        "causes": [{"reason": "UnexpectedServerResponse", "message": "404 page not found"}]})


def already_exists(plural: str, group: str, name: str) -> Refused:
    """There is one of that name."""
    text = f'{named(plural, group)} "{name}" already exists'
    return Refused(409, text, reason="AlreadyExists", details=_details(name, group, plural))


def conflict(plural: str, group: str, name: str, why: str = "") -> Refused:
    """Somebody else was faster, or a precondition does not hold."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    text = f'Operation cannot be fulfilled on {named(plural, group)} "{name}": {why}'
    return Refused(409, text, details=_details(name, group, plural))


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> Refused:
    """The object does not hold together; every cause names its field."""
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    text = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    listed = [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
    details = {**_details(name, group, kind), "causes": listed}
    return Refused(422, f'{named(kind, group)} "{name}" is invalid: {text}', details=details)


def bad_request(message: str) -> Refused:
    """The request itself cannot be understood."""
    return Refused(400, message)


def method_not_allowed() -> Refused:
    """The resource does not know this verb."""
    return Refused(405, "the server does not allow this method on the requested resource")


def expired(message: str = "The resourceVersion for the provided watch is too old.") -> Refused:
    """The revision asked for is gone: list again."""
    return Refused(410, message)


def success(plural: str, group: str, name: str, uid: str) -> Body:
    """What a deletion that is done answers."""
    details = {**_details(name, group, plural), "uid": uid}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


BY_FAULT: tuple[tuple[type[errors.Fault], int], ...] = (
    (errors.NotFound, 404), (errors.AlreadyExists, 409), (errors.Conflict, 409), (errors.Expired, 410), (errors.Invalid, 422),
    (errors.Denied, 500), (errors.Busy, 429), (errors.Unreachable, 503), (errors.UserError, 400),
)


def of(error: BaseException) -> Refused:
    """The refusal an error deserves; what was not understood is an internal error that tells nothing of the inside."""
    if isinstance(error, Refused):
        return error
    for fault, code in BY_FAULT:
        if isinstance(error, fault):
            reason = "AlreadyExists" if fault is errors.AlreadyExists else ""
            details = {"retryAfterSeconds": 1} if code in (429, 503) else None
            return Refused(code, str(error), reason=reason, details=details)
    return Refused(500, "Internal error occurred: the server's log says more")
