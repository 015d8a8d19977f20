"""How a call fails: gRPC's status code by name, and what the other side or the connection says about it.

Pure. Read next: `channel.py`.
"""

from __future__ import annotations

CODES = ("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
         "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
         "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED")
RESETS = {7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}  # HTTP/2's errors; others INTERNAL
NOT_PROCESSED = "the call was not processed"


class RpcError(Exception):
    """A call that did not succeed; `code` is one of CODES."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code, self.details = code, details


def of_status(number: str, details: str) -> RpcError:
    """What a `grpc-status` other than 0 means."""
    return RpcError(CODES[int(number)] if number.isdecimal() and int(number) < len(CODES) else "UNKNOWN", details)


def of_reset(number: int) -> RpcError:
    """What it means that the other side ended a stream with an error of HTTP/2."""
    why = NOT_PROCESSED if number == 7 else f"the stream was reset with error {number}"
    return RpcError(RESETS.get(number, "INTERNAL"), why)
