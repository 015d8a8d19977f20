"""Who may be answered at once: so many reads and so many writes, part of them kept for what keeps a cluster alive.

    nodes' leases and status, leases of who leads, system:kube-* and system:masters      every seat
    everybody else                                                                       three in four, each user half of those

Pure. Must not know: how a request is answered. Read next: `handler.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from minik8s.apiserver.auth.authorize import MASTERS, User
from minik8s.apiserver.request.routes import Target
from minik8s.apiserver.request.status import bad_request
from nodecore.duration import parse_duration
from nodecore.errors import UserError

READING = frozenset({"get", "list"})
ENDLESS = 1 << 40
HEARTBEATS = frozenset({"leases", "nodes", "pods", "events"})


@dataclass(frozen=True, slots=True)
class Limits:
    """How many reads and writes at once (0: any number), how many seconds each may take, and how many a second of whom."""

    reads: int = 400
    writes: int = 200
    seconds: float = 60.0
    user_rate: float = 20000.0
    anonymous_rate: float = 400.0


class Seats:
    """The seats for requests of one sort."""

    def __init__(self, seats: int) -> None:
        self._seats, self._open = seats or ENDLESS, (seats or ENDLESS) * 3 // 4
        self._taken = 0
        self._users: Counter[str] = Counter()

    def take(self, user: User, target: Target) -> bool:
        """Take a seat if there is one for such a request."""
        mine = self._users[user.name]
        if not vital(user, target) and (self._taken >= self._open or mine >= self._open // 2):
            return False
        if self._taken >= self._seats:
            return False
        self._taken += 1
        self._users[user.name] = mine + 1
        return True

    def leave(self, user: User) -> None:
        """Give it back."""
        self._taken -= 1
        left = self._users[user.name] - 1
        if left > 0:
            self._users[user.name] = left
        else:
            del self._users[user.name]


def patience(query: Mapping[str, str], most: float) -> float:
    """How many seconds a request may take: what its client says, but no more than the server's limit."""
    said = query.get("timeout")
    if not said:
        return most
    try:
        return min(most, parse_duration(said[:100], what="timeout") or most)
    except UserError:
        raise bad_request(f"invalid timeout specified in the request URL - {said[:100]!r} is not a duration") from None


def vital(user: User, target: Target) -> bool:
    """Whether a cluster lives by such requests."""
    if user.node:
        return target.plural in HEARTBEATS
    return user.name.startswith("system:kube-") or MASTERS in user.groups
