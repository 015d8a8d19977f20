"""What can go wrong, classed by whose fault it is.

Adapters translate foreign exceptions (errno, gRPC codes, HTTP status) into these once, at the rim; everything
inside raises and catches only these. `nodecore.daemon.entry` turns them into an exit code and one line.

Pure. Must not know: any library's exceptions. Read next: `nodecore/daemon/entry.py`.
"""

from __future__ import annotations

from enum import Enum


class Blame(Enum):
    """Whose fault an error is, which decides who is told and how."""

    USER = "user"
    ENVIRONMENT = "environment"
    OURS = "ours"


class Fault(Exception):
    """An error that has been understood: `str(fault)` is one clear line."""

    blame = Blame.ENVIRONMENT


class UserError(Fault):
    """A value the user gave is wrong; the message names it. Exit code 2."""

    blame = Blame.USER


class NotFound(Fault):
    """The thing asked for is not there."""


class AlreadyExists(Fault):
    """The thing to be made is there already."""


class Conflict(Fault):
    """Somebody changed it since it was read: read again and retry."""


class Busy(Fault):
    """The other side asks to come back later (EBUSY, EAGAIN, 429, a held lock)."""


class Denied(Fault):
    """Not allowed (EPERM, 401, 403)."""


class Unreachable(Fault):
    """The other side does not answer (refused, timed out, closed in the middle)."""


class Expired(Fault):
    """The revision asked for is gone (410, etcd compaction): list again."""


class Invalid(Fault):
    """The other side understood the request and rejected its content (EINVAL, 400, 422)."""


class Unsupported(Fault):
    """The other side does not know how (EOPNOTSUPP, 501): a kernel without the module, say."""


class Bug(Fault):
    """A thing that cannot happen did: ours to mend."""

    blame = Blame.OURS


def leaves(error: BaseException) -> list[BaseException]:
    """The errors inside an exception group, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]
