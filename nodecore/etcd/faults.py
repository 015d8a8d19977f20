"""gRPC's and etcd's errors made ours: which `nodecore.errors` class each one is, and whether a write may be repeated.

Pure, over the status code's name and etcd's text (etcd puts its own errors in the details, and uses a few codes
for several of them). Must not know: channels. Read next: `nodecore/etcd/connection.py`.
"""

from __future__ import annotations

from nodecore import errors
from nodecore.rpc.errors import NOT_PROCESSED

BY_TEXT = (  # etcd's own words come first: one gRPC code stands for several of them
    ("has been compacted", errors.Expired),
    ("lease not found", errors.NotFound),
    ("lease already exists", errors.AlreadyExists),
    ("authentication failed", errors.Denied),
    ("user name is empty", errors.Denied),
    ("permission denied", errors.Denied),
    ("invalid auth token", errors.Denied),  # a watch is cancelled with these words, and no code
    ("revision of auth store is old", errors.Denied),
    ("received message larger than max", errors.Invalid),  # has the code of those who should come again
    ("too many requests", errors.Busy),
    ("database space exceeded", errors.Busy),
)
BY_CODE = {
    "NOT_FOUND": errors.NotFound,
    "ALREADY_EXISTS": errors.AlreadyExists,
    "PERMISSION_DENIED": errors.Denied,
    "UNAUTHENTICATED": errors.Denied,
    "INVALID_ARGUMENT": errors.Invalid,
    "FAILED_PRECONDITION": errors.Invalid,
    "OUT_OF_RANGE": errors.Invalid,
    "UNIMPLEMENTED": errors.Invalid,
    "RESOURCE_EXHAUSTED": errors.Busy,
}
STALE_TOKEN = ("invalid auth token", "revision of auth store is old")
NEVER_SENT = ("failed to connect", "connections to all backends failing", "no leader", "connection refused", NOT_PROCESSED)


def translate(code: str, details: str, address: str) -> errors.Fault:
    """The fault for a failed call; what is not known to be anything else is `Unreachable`."""
    text = " ".join(details.removeprefix("etcdserver: ").split()) or code.lower().replace("_", " ")
    for words, kind in BY_TEXT:
        if words in details:
            return kind(f"etcd at {address}: {text}")
    return BY_CODE.get(code, errors.Unreachable)(f"etcd at {address}: {text}")


def token_is_stale(details: str) -> bool:
    """Whether logging in again would help."""
    return any(words in details for words in STALE_TOKEN)


def never_sent(code: str, details: str) -> bool:
    """Whether the request surely changed nothing, so that even a write may be sent again."""
    return code == "UNAVAILABLE" and any(words in details for words in NEVER_SENT)


def is_passing(fault: errors.Fault) -> bool:
    """Whether another member, or the same a little later, may well answer."""
    return isinstance(fault, errors.Unreachable | errors.Busy)
